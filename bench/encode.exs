# The cost of turning an event's terms into JSON: beside Jason, jiffy, and serde_json in plain Rust, in turns.
#
#     bin/bench --only encode
#     bin/bench --only encode --tweet FILE.json --document FILE.json     with JSON of your own
#
# Of this client the whole NIF call is measured, the queue and the clock included; of the others the encoding
# alone, of the event as the map that goes on the wire. serde_json writes a `Value`, which is its own tree.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Encode do
  alias Bench.{Collector, Numbers, Serde}
  alias BilldogEng.Analytics
  alias BilldogEng.Client.Native

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer, tweet: :string, document: :string])

    url = Collector.start()
    {:ok, client} = Analytics.start_link([api_key: "key", host: url] ++ endless())
    rounds = opts[:rounds] || 7

    cases = [
      {"no properties", %{}, 20_000},
      {"8 properties", properties(8), 20_000},
      {"30 properties", properties(30), 5_000},
      {"a tweet", given(opts[:tweet]) || tweet(), 1_000},
      {"a document", given(opts[:document]) || %{"tweets" => List.duplicate(tweet(), 150)}, 20}
    ]

    rows = Enum.map(cases, &row(&1, client, rounds))
    names = ["this client's NIF", "Jason", "jiffy", "serde_json"]
    header = ["an event of", "bytes"] ++ Enum.map(names, &(&1 <> ", ns")) ++ ["of Jason", "of serde_json"]
    IO.puts("\n" <> Numbers.table([header | rows]))

    IO.puts(
      "\nMedians of #{rounds} rounds in turns. OTP #{System.otp_release()}, Elixir #{System.version()}."
    )
  end

  defp endless do
    [
      flush_at: :infinity,
      flush_interval: 3_600_000,
      max_queue_size: :infinity,
      max_queue_bytes: 2_000_000_000,
      max_event_bytes: 64_000_000,
      request_timeout: 60_000
    ]
  end

  defp row({name, properties, times}, client, rounds) do
    event = %{
      "event_name" => "e",
      "event_timestamp" => 1_790_000_000_000,
      "properties" => properties,
      "user_id" => "u"
    }

    serde = Serde.start(json(event))

    contenders = [
      {:ours, fn -> ours(client, properties, times) end},
      {:jason, with_encoder(Jason, fn -> Jason.encode!(event) end, times)},
      {:jiffy, with_encoder(:jiffy, fn -> :erlang.iolist_to_binary(:jiffy.encode(event)) end, times)},
      {:serde, fn -> Serde.ns(serde, times) / times end}
    ]

    measured =
      for round <- 0..rounds do
        order = if rem(round, 2) == 0, do: contenders, else: Enum.reverse(contenders)
        result = Map.new(order, fn {who, measure} -> {who, measure && measure.()} end)
        # Captured events leave in between, untimed.
        :ok = Analytics.flush(client)
        result
      end

    # The first one is for warming up.
    measured = tl(measured)
    IO.puts(:stderr, "#{name}: #{inspect(hd(measured))}")
    median = fn who -> if hd(measured)[who], do: Numbers.median(for m <- measured, do: m[who]) end

    ratio = fn who ->
      if hd(measured)[who],
        do: Numbers.show(Numbers.median(for m <- measured, do: m.ours / m[who])),
        else: "–"
    end

    [name, Numbers.show(byte_size(json(event)))] ++
      for(who <- [:ours, :jason, :jiffy, :serde], do: if(ns = median.(who), do: Numbers.show(ns), else: "–")) ++
      ["× " <> ratio.(:jason), "× " <> ratio.(:serde)]
  end

  defp ours(client, properties, times) do
    ns =
      time(fn ->
        repeat(times, fn ->
          case Native.capture(client, :event, "u", "e", properties, %{}, nil, nil) do
            :ok -> :ok
            :dirty -> :ok = Native.capture_dirty(client, :event, "u", "e", properties, %{}, nil, nil)
          end
        end)
      end)

    ns / times
  end

  defp with_encoder(module, encode, times) do
    if Code.ensure_loaded?(module), do: fn -> time(fn -> repeat(times, encode) end) / times end
  end

  defp repeat(0, _fun), do: :ok

  defp repeat(times, fun) do
    fun.()
    repeat(times - 1, fun)
  end

  defp time(fun) do
    :erlang.garbage_collect()
    start = System.monotonic_time(:nanosecond)
    fun.()
    System.monotonic_time(:nanosecond) - start
  end

  # ── events ──

  defp properties(8) do
    %{
      path: "/products/17/reviews",
      referrer: "https://www.example.com/search?q=item+17",
      plan: "enterprise",
      title: "Reviews of product 17: by our customers",
      price: 23.29,
      quantity: 3,
      duration_ms: 5389,
      returning: true
    }
  end

  defp properties(30) do
    for n <- 1..30, into: %{} do
      value = Enum.at(["a value of some length", n * 1_000, n / 7, rem(n, 4) == 0, nil], rem(n, 5))
      {:"property_#{n}", value}
    end
  end

  defp tweet do
    user = %{
      "id" => 2_244_994_945,
      "name" => "Développeur café ☕",
      "description" => String.duplicate("All things \"tweet\", line\nby line. ", 20),
      "followers_count" => 511_231,
      "verified" => true,
      "url" => nil
    }

    %{
      "id_str" => "505874924095815681",
      "text" => String.duplicate("Ein Text mit Umlauten: äöü, und einem Link http://t.co/x ", 8),
      "user" => user,
      "retweeted_status" => %{"user" => user, "retweet_count" => 18, "score" => 0.731},
      "entities" => %{
        "urls" => for(n <- 1..20, do: %{"url" => "http://t.co/#{n}", "indices" => [n, n + 22]}),
        "hashtags" => for(n <- 1..40, do: "tag#{n}")
      },
      "words" => for(n <- 1..120, do: "word number #{n}")
    }
  end

  defp given(nil), do: nil

  defp given(path) do
    {:ok, document} = BilldogEng.Client.Native.json_decode(File.read!(path))
    if is_map(document), do: document, else: %{"document" => document}
  end

  # By what there is: the document is for serde_json to read, and to be counted.
  defp json(event), do: Bench.JSON.encoder().(event)
end

defmodule Bench.Serde do
  # A process of bench/serde with one document.
  def start(json) do
    path = Path.join(System.tmp_dir!(), "billdogeng_bench_#{System.pid()}.json")
    File.write!(path, json)

    port =
      Port.open({:spawn_executable, System.fetch_env!("BENCH_SERDE")}, [:binary, line: 100, args: [path]])

    ns(port, 1)
    File.rm!(path)
    port
  end

  def ns(port, times) do
    Port.command(port, "#{times}\n")

    receive do
      {^port, {:data, {:eol, ns}}} -> String.to_integer(ns)
    after
      60_000 -> raise "bench_serde did not answer"
    end
  end
end

Bench.Encode.main(System.argv())
