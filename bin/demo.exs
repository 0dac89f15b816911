# The script behind bin/demo, run by `mix run`: see there.
#
#     workers ──HTTP──► shop (httpd) ──capture/4──► client ──HTTP──► collector
#                                                                       │ {:collector, events}
#                                                    summary ◄── Tally ◄┘

# Elixir 1.15 and later load only the OTP applications that the project names.
if function_exported?(Mix, :ensure_application!, 1),
  do: apply(Mix, :ensure_application!, [:inets])

{:ok, _} = Application.ensure_all_started(:inets)

defmodule Demo.Latency do
  # A histogram that handlers write to without a lock: 0.1 µs a bucket up to 100 µs, 10 µs up to
  # 10 ms, 1 ms up to 1 s.
  @spans [{100, 1_000}, {10_000, 1_000}, {1_000_000, 1_000}]

  def new, do: :counters.new(3_000, [:write_concurrency])

  def add(histogram, ns), do: :counters.add(histogram, bucket(ns, 1, @spans), 1)

  defp bucket(ns, first, [{width, count} | _]) when ns < width * count,
    do: first + div(max(ns, 0), width)

  defp bucket(_ns, first, [{_, count}]), do: first + count - 1
  defp bucket(ns, first, [{_, count} | wider]), do: bucket(ns, first + count, wider)

  # The upper edge of the bucket that holds this share of all, in µs.
  def percentile(histogram, share) do
    counts = for index <- 1..3_000, do: :counters.get(histogram, index)
    reach(counts, edges(), Enum.sum(counts) * share)
  end

  defp reach(_, [edge], _), do: edge / 1_000
  defp reach([count | _], [edge | _], left) when count >= left, do: edge / 1_000
  defp reach([count | counts], [_ | edges], left), do: reach(counts, edges, left - count)

  defp edges, do: for({width, count} <- @spans, index <- 1..count, do: width * index)
end

defmodule Demo.Tally do
  # What the collector got, counted apart from what the client says: all events, and how many
  # of them were there before (delivery is at least once). Events without the id count as new.
  def start_link(collector, id_key) do
    parent = self()

    pid =
      spawn_link(fn ->
        :ok = BilldogEng.Collector.subscribe(collector)
        send(parent, {self(), :ready})
        loop(%{all: 0, repeats: 0, seen: MapSet.new()}, id_key)
      end)

    receive(do: ({^pid, :ready} -> pid))
  end

  def result(pid) do
    send(pid, {:result, self()})
    receive(do: ({^pid, result} -> result))
  end

  defp loop(tally, id_key) do
    receive do
      {:collector, events} ->
        events |> Enum.reduce(tally, &count(&1, &2, id_key)) |> loop(id_key)

      {:result, from} ->
        send(from, {self(), Map.take(tally, [:all, :repeats])})
        loop(tally, id_key)
    end
  end

  defp count(event, tally, id_key) do
    id = id_key && event["properties"][id_key]

    cond do
      id == nil ->
        %{tally | all: tally.all + 1}

      MapSet.member?(tally.seen, id) ->
        %{tally | all: tally.all + 1, repeats: tally.repeats + 1}

      true ->
        %{tally | all: tally.all + 1, seen: MapSet.put(tally.seen, id)}
    end
  end
end

defmodule Demo.Peak do
  # The most that was queued, asked every 20 ms.
  def start_link(client), do: spawn_link(fn -> loop(client, 0) end)

  def result(pid) do
    send(pid, {:result, self()})
    receive(do: ({^pid, most} -> most))
  end

  defp loop(client, most) do
    receive do
      {:result, from} -> send(from, {self(), max(most, queued(client))})
    after
      20 -> loop(client, max(most, queued(client)))
    end
  end

  defp queued(client), do: BilldogEng.Analytics.stats(client).queued
end

defmodule Demo.Shop do
  # A web shop of three pages as a callback module of OTP's httpd. Every request captures.
  @products ~w(lamp chair table shelf mirror carpet)

  def start(client, latency) do
    :persistent_term.put(__MODULE__, {client, latency})
    root = System.tmp_dir!() |> String.to_charlist()

    {:ok, pid} =
      :inets.start(:httpd,
        port: 0,
        bind_address: {127, 0, 0, 1},
        # httpd writes head and body apart: without this each answer waits 40 ms.
        socket_type: {:ip_comm, [nodelay: true]},
        server_name: ~c"shop",
        server_root: root,
        document_root: root,
        modules: [__MODULE__]
      )

    {pid, :httpd.info(pid)[:port]}
  end

  def unquote(:do)(request) do
    # The fields of httpd's record `mod` by place: its header file isn't always installed.
    path = request |> elem(8) |> to_string()
    headers = elem(request, 11)
    {client, latency} = :persistent_term.get(__MODULE__)
    {event, product} = visited(path)

    properties = %{
      request_id: :erlang.unique_integer([:positive]),
      path: path,
      product: product,
      price: rem(:erlang.phash2(path), 80) + 0.5,
      currency: "EUR",
      agent: header(headers, ~c"user-agent"),
      returning: rem(:erlang.phash2(headers), 2) == 0,
      plan: :guest
    }

    user = header(headers, ~c"x-user")
    from = :erlang.monotonic_time()
    BilldogEng.Analytics.capture(client, user, event, properties)
    took = :erlang.monotonic_time() - from
    Demo.Latency.add(latency, :erlang.convert_time_unit(took, :native, :nanosecond))

    body = "<html><h1>#{product}</h1></html>" |> String.to_charlist()
    head = [code: 200, content_type: ~c"text/html", content_length: ~c"#{length(body)}"]
    {:proceed, [response: {:response, head, body}]}
  end

  defp header(headers, name) do
    {_, value} = List.keyfind(headers, name, 0, {name, ~c"nobody"})
    to_string(value)
  end

  defp visited("/product/" <> product), do: {"product_viewed", product}
  defp visited("/cart/" <> product), do: {"product_added", product}
  defp visited("/order/" <> product), do: {"order_completed", product}
  defp visited(_), do: {"page_viewed", "none"}

  def path(visit) do
    product = Enum.at(@products, rem(visit, length(@products)))
    page = Enum.at(~w(product product product cart product order), rem(div(visit, 7), 6))
    "/#{page}/#{product}"
  end
end

defmodule Demo.Visitor do
  # A keep-alive HTTP client: one request after the other until told to stop; returns how many.
  def start(port, number), do: Task.async(fn -> port |> connect() |> visit(port, number, 0) end)

  defp connect(port) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false, nodelay: true])

    socket
  end

  defp visit(socket, port, number, visits) do
    receive do
      :stop ->
        :gen_tcp.close(socket)
        visits
    after
      0 ->
        :ok =
          :gen_tcp.send(socket, [
            "GET #{Demo.Shop.path(visits + number)} HTTP/1.1\r\nhost: shop\r\n",
            "user-agent: demo/1.0\r\nx-user: visitor-#{number}-#{div(visits, 12)}\r\n\r\n"
          ])

        case answered(socket, "") do
          :keep_alive -> visit(socket, port, number, visits + 1)
          :close -> port |> connect() |> visit(port, number, visits + 1)
        end
    end
  end

  defp answered(socket, read) do
    {:ok, more} = :gen_tcp.recv(socket, 0, 10_000)
    read = read <> more

    if String.ends_with?(read, "</html>"),
      do: if(read =~ ~r/^connection: close/im, do: :close, else: :keep_alive),
      else: answered(socket, read)
  end
end

defmodule Demo.Progress do
  # A bar on a terminal; elsewhere a plain line for every tenth.
  # bin/demo asks whether stdout is a terminal; OTP 25 can't tell without a shell.
  def new, do: %{terminal?: System.get_env("DEMO_TERMINAL") == "1", tenth: -1}

  def show(progress, share, text) do
    share = share |> max(0.0) |> min(1.0)
    tenth = trunc(share * 10)

    cond do
      progress.terminal? ->
        full = trunc(share * 30)
        bar = String.duplicate("#", full) <> String.duplicate(".", 30 - full)
        IO.write("\r[#{bar}] #{text}\e[K")
        progress

      tenth > progress.tenth ->
        IO.puts("#{String.pad_leading("#{tenth * 10}", 3)} % #{text}")
        %{progress | tenth: tenth}

      true ->
        progress
    end
  end

  def done(%{terminal?: true}), do: IO.write("\n")
  def done(_), do: :ok
end

defmodule Demo.Lines do
  # A line of the file to the arguments of capture/6, or what is wrong with it.
  alias BilldogEng.Client.Native

  def parse(line) do
    with {:ok, event} <- decode(line),
         {:ok, name} <- field(event, "event", &(is_binary(&1) and &1 != ""), "a string"),
         {:ok, id} <-
           field(event, "distinct_id", &(is_binary(&1) or is_integer(&1)), "a string or integer"),
         {:ok, properties} <- object(event, "properties"),
         {:ok, groups} <- object(event, "groups"),
         {:ok, options} <- timestamp(event["timestamp"]) do
      {:ok, [id, name, properties, groups, options]}
    end
  end

  defp decode(line) do
    case Native.json_decode(line) do
      {:ok, event} when is_map(event) -> {:ok, event}
      {:ok, _} -> {:error, "not a JSON object"}
      {:error, reason} -> {:error, "not JSON: #{reason}"}
    end
  end

  defp field(event, key, good?, what) do
    case event do
      %{^key => value} ->
        if good?.(value), do: {:ok, value}, else: {:error, "#{key} isn't #{what}"}

      _ ->
        {:error, "#{key} is missing"}
    end
  end

  defp object(event, key) do
    case event[key] do
      nil -> {:ok, %{}}
      value when is_map(value) -> {:ok, value}
      _ -> {:error, "#{key} isn't an object"}
    end
  end

  defp timestamp(nil), do: {:ok, []}
  defp timestamp(ms) when is_integer(ms), do: {:ok, [timestamp: ms]}

  defp timestamp(text) when is_binary(text) do
    with {:error, _} <- DateTime.from_iso8601(text),
         {:error, _} <- NaiveDateTime.from_iso8601(text) do
      {:error, "timestamp #{inspect(text)} isn't ISO 8601"}
    else
      {:ok, time, _offset} -> {:ok, [timestamp: time]}
      {:ok, time} -> {:ok, [timestamp: time]}
    end
  end

  defp timestamp(_), do: {:error, "timestamp is neither ISO 8601 nor integer milliseconds"}
end

defmodule Demo do
  alias BilldogEng.{Analytics, Collector}

  @shop_ms 20_000
  @down_at 7_000
  @up_at 11_000
  @visitors 8
  # Of the 64 MiB that the queue holds: reading waits above this, so that nothing is dropped.
  @high_water 16 * 1024 * 1024

  def shop do
    world = step("collector, client, shop", fn -> start("request_id") end)
    {shop, port} = Demo.Shop.start(world.client, world.latency)
    IO.puts("   shop on http://127.0.0.1:#{port}, ingest on #{Collector.url(world.collector)}")

    visits =
      step(
        "#{@visitors} visitors, #{div(@shop_ms, 1000)} s, the ingest down for #{div(@up_at - @down_at, 1000)} s",
        fn ->
          visitors = for number <- 1..@visitors, do: Demo.Visitor.start(port, number)
          watch(world, now(), :up, Demo.Progress.new())
          Enum.each(visitors, &send(&1.pid, :stop))
          visitors |> Enum.map(&Task.await(&1, 30_000)) |> Enum.sum()
        end
      )

    finish(world, [{"shop requests", visits}], visits, fn -> :inets.stop(:httpd, shop) end)
  end

  def file(path) do
    world = step("collector, client", fn -> start(nil) end)

    {sent, malformed} =
      step("events of #{Path.basename(path)}", fn ->
        size = max(File.stat!(path).size, 1)
        from = {0, 0, 0, 0, Demo.Progress.new()}

        {sent, bad, _, _, progress} =
          path
          |> File.stream!()
          |> Stream.with_index(1)
          |> Enum.reduce(from, &line(&1, &2, size, world))

        Demo.Progress.show(progress, 1.0, "#{sent} events read") |> Demo.Progress.done()
        {sent, bad}
      end)

    finish(world, [{"lines sent", sent}, {"lines malformed", malformed}], sent, fn -> :ok end)
  end

  defp start(id_key) do
    {:ok, collector} = Collector.start_link(keep: false)

    {:ok, client} =
      Analytics.start_link(
        api_key: "demo-key",
        host: Collector.url(collector),
        flush_at: 1_000,
        flush_interval: 1_000,
        max_queue_size: :infinity
      )

    %{
      collector: collector,
      client: client,
      tally: Demo.Tally.start_link(collector, id_key),
      peak: Demo.Peak.start_link(client),
      latency: Demo.Latency.new()
    }
  end

  ## The shop's 20 s

  defp watch(world, from, ingest, progress) do
    elapsed = now() - from
    ingest = turn(ingest, elapsed, world)
    stats = Analytics.stats(world.client)

    text =
      "#{div(elapsed, 1000)} s  captured #{stats.captured}  delivered #{stats.delivered}  " <>
        "queued #{stats.queued}  ingest #{if ingest == :down, do: "DOWN", else: "up"}"

    progress = Demo.Progress.show(progress, elapsed / @shop_ms, text)

    if elapsed < @shop_ms do
      Process.sleep(100)
      watch(world, from, ingest, progress)
    else
      Demo.Progress.done(progress)
    end
  end

  defp turn(:up, elapsed, world) when elapsed in @down_at..(@up_at - 1)//1 do
    :ok = Collector.respond(world.collector, :refuse)
    :down
  end

  # flush/1 ends the pause after the failures; beside the watch, which goes on.
  defp turn(:down, elapsed, world) when elapsed >= @up_at do
    :ok = Collector.respond(world.collector, :ok)
    Task.start_link(fn -> Analytics.flush(world.client, timeout: 60_000) end)
    :back
  end

  defp turn(ingest, _elapsed, _world), do: ingest

  ## The file's lines

  defp line({line, number}, {sent, bad, unasked, read, progress}, size, world) do
    read = read + byte_size(line)
    unasked = wait_for_room(unasked + byte_size(line), world.client)

    {sent, bad} =
      case line |> String.trim() |> parse() do
        :blank ->
          {sent, bad}

        {:ok, arguments} ->
          from = :erlang.monotonic_time()
          apply(Analytics, :capture, [world.client | arguments])
          took = :erlang.monotonic_time() - from
          Demo.Latency.add(world.latency, :erlang.convert_time_unit(took, :native, :nanosecond))
          {sent + 1, bad}

        {:error, what} ->
          if progress.terminal?, do: IO.write("\r\e[K")
          IO.puts(:stderr, "line #{number}: #{what}")
          {sent, bad + 1}
      end

    progress =
      if rem(number, 200) == 0,
        do: Demo.Progress.show(progress, read / size, "#{sent} events read"),
        else: progress

    {sent, bad, unasked, read, progress}
  end

  defp parse(""), do: :blank
  defp parse(line), do: Demo.Lines.parse(line)

  # Asked once in 1 MiB of lines, as asking costs more than capturing.
  defp wait_for_room(unasked, _client) when unasked < 1024 * 1024, do: unasked

  defp wait_for_room(unasked, client) do
    if Analytics.stats(client).queued_bytes > @high_water do
      Process.sleep(5)
      wait_for_room(unasked, client)
    else
      0
    end
  end

  ## The end: flush, summary, check

  defp finish(world, first_rows, expected, stop) do
    flushed = step("flush", fn -> Analytics.flush(world.client, timeout: 120_000) end)
    if flushed != :ok, do: IO.puts(:stderr, "   flush: #{inspect(flushed)}")
    stop.()

    stats = Analytics.stats(world.client)
    most = Demo.Peak.result(world.peak)
    tally = Demo.Tally.result(world.tally)
    totals = Collector.totals(world.collector)
    dropped = stats.dropped |> Map.values() |> Enum.sum()
    unique = tally.all - tally.repeats
    # Without an id in each event, repeats are what is left over after a retry.
    repeats = if stats.retries > 0, do: max(tally.all - stats.delivered, 0), else: 0
    unique = if tally.repeats == 0, do: tally.all - repeats, else: unique

    rows =
      first_rows ++
        [
          {"captured", stats.captured},
          {"delivered", stats.delivered},
          {"dropped", "#{dropped}#{if dropped > 0, do: " #{inspect(stats.dropped)}"}"},
          {"most queued at any moment", most},
          {"a capture, p50", us(world, 0.5)},
          {"a capture, p99", us(world, 0.99)},
          {"a capture, p99.9", us(world, 0.999)},
          {"batches", totals.accepted},
          {"retries", stats.retries},
          {"bytes before gzip", totals.bytes},
          {"bytes after gzip", totals.wire_bytes},
          {"the collector counted", "#{unique} (and #{tally.all - unique} repeats)"}
        ]

    IO.puts("")
    for {name, value} <- rows, do: IO.puts("   #{String.pad_trailing(name, 28)}#{value}")
    IO.puts("")

    checks = [
      {"captured = delivered + dropped", stats.captured == stats.delivered + dropped},
      {"captured = what was sent to capture", stats.captured == expected},
      {"the collector counted what was delivered", unique == stats.delivered}
    ]

    for {name, holds?} <- checks,
        do: IO.puts("   #{if holds?, do: "ok   ", else: "WRONG"} #{name}")

    if Enum.all?(checks, &elem(&1, 1)), do: 0, else: 1
  end

  defp us(world, share),
    do: "#{:erlang.float_to_binary(Demo.Latency.percentile(world.latency, share), decimals: 1)} µs"

  defp step(name, work) do
    IO.puts("== #{name}")
    from = now()
    result = work.()
    IO.puts("== #{name}: #{:erlang.float_to_binary((now() - from) / 1000, decimals: 1)} s")
    result
  end

  defp now, do: System.monotonic_time(:millisecond)
end

status =
  case System.argv() do
    [] -> Demo.shop()
    [path] -> Demo.file(path)
  end

System.stop(status)
Process.sleep(:infinity)
