# The collector and a client in one VM, for page.mjs, which writes lines of Elixir to the standard input.
alias BilldogEng.{Analytics, Collector}

{:ok, collector} = Collector.start_link(page: [client: Browser.Client], api_key: "browser-key")

{:ok, client} =
  Analytics.start_link(
    name: Browser.Client,
    api_key: "browser-key",
    host: Collector.url(collector),
    flush_interval: 200,
    max_queue_size: :infinity,
    max_retries: 0,
    shutdown_timeout: 0
  )

IO.puts("page #{Collector.page_url(collector)}")

# Ends with its input, and so with the test.
for line <- IO.stream(:stdio, :line) do
  Code.eval_string(line, client: client, collector: collector)
  IO.puts("done")
end
