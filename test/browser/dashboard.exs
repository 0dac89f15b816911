# Writes the dashboard's page in each state of a client as HTML, into the folder of the first argument, for dashboard.mjs.
alias BilldogEng.{Analytics, Collector, LiveDashboard}

[folder] = System.argv()
File.mkdir_p!(folder)
{:ok, collector} = Collector.start_link()

{:ok, client} =
  Analytics.start_link(
    name: Browser.Client,
    api_key: "browser-key",
    host: Collector.url(collector),
    flush_interval: 3_600_000,
    flush_at: :infinity,
    max_queue_size: 20,
    max_retries: 0,
    shutdown_timeout: 0
  )

{:ok, spooling} =
  Analytics.start_link(
    name: Browser.Spooling,
    api_key: "browser-key",
    host: Collector.url(collector),
    spool_dir: Path.join(folder, "spool-#{System.pid()}"),
    flush_interval: 3_600_000,
    max_retries: 0,
    shutdown_timeout: 0
  )

# The page's own document has these; the styles of LiveDashboard come with LiveDashboard.
write = fn name, client, sent ->
  File.write!(Path.join(folder, "#{name}.html"), [
    ~s(<!doctype html><html lang="en"><head><meta charset="utf-8"><title>#{name}</title>),
    ~s(<meta name="viewport" content="width=device-width"></head><body><main><h1>#{name}</h1>),
    LiveDashboard.html(client, node(), sent),
    "</main></body></html>"
  ])
end

capture = fn client, count ->
  for n <- 1..count, do: Analytics.capture(client, "user-1", "signed_up", %{n: n})
end

capture.(client, 10)
:ok = Analytics.flush(client)
write.("healthy", Browser.Client, nil)

Collector.respond(collector, {:status, 401})
capture.(client, 30)
write.("refused-key", Browser.Client, LiveDashboard.send_test_event(Browser.Client, node()))

Collector.respond(collector, :refuse)
capture.(spooling, 50)
{:error, _} = Analytics.flush(spooling)
write.("spooling", Browser.Spooling, nil)

Collector.respond(collector, :hang)
spawn(fn -> Analytics.flush(client) end)
# The page names a response that takes longer than two seconds.
Process.sleep(2_500)
write.("hanging", Browser.Client, nil)
