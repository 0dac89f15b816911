defmodule BilldogEng.SafetyTest do
  # Alone: it watches the VM's schedulers and memory.
  use BilldogEng.ClientCase

  @moduletag :slow

  import BilldogEng.Watch

  @tag timeout: 300_000
  test "the check itself: what holds a scheduler is seen" do
    # Built-ins that yield to nobody and count for little: equal binaries of 100 MB, compared.
    prepare = fn -> for _ <- 1..2, do: String.duplicate("x", 100_000_000) end
    compare = fn [one, two] -> for _ <- 1..200, do: true = one == two end
    assert [_ | _] = long_schedules(prepare, compare)
  end

  @terms [
    "a million levels of lists": quote(do: Enum.reduce(1..1_000_000, 1, fn _, inner -> [inner] end)),
    "a million levels of maps": quote(do: Enum.reduce(1..1_000_000, 1, fn _, inner -> %{a: inner} end)),
    "a million levels of tuples with a pid in them":
      quote(do: Enum.reduce(1..1_000_000, self(), fn _, inner -> {inner} end)),
    "a list of ten million": quote(do: Enum.to_list(1..10_000_000)),
    "a keyword list of a million": quote(do: List.duplicate({:a, 1}, 1_000_000)),
    "a list of a million pids": quote(do: List.duplicate(self(), 1_000_000)),
    "a binary of 200 MB": quote(do: String.duplicate("x", 200_000_000)),
    "a bitstring of 200 MB": quote(do: <<String.duplicate("x", 200_000_000)::binary, 1::1>>),
    "a map of a million keys": quote(do: Map.new(1..1_000_000, &{&1, &1})),
    "a tuple of ten million behind a pid": quote(do: {self(), Tuple.duplicate(1, 10_000_000)}),
    "a map of a million keys behind a pid": quote(do: [self(), Map.new(1..1_000_000, &{&1, &1})]),
    "a set of a million": quote(do: MapSet.new(1..1_000_000)),
    "a tuple of ten million": quote(do: Tuple.duplicate(1, 10_000_000)),
    "a range of 10**12": quote(do: 1..(10 ** 12)),
    "an integer of a million digits": quote(do: Bitwise.bsl(1, 3_321_928)),
    "a key of 200 MB": quote(do: %{String.duplicate("x", 200_000_000) => 1}),
    "many small strings": quote(do: List.duplicate(String.duplicate("é\n", 500), 900))
  ]

  for {name, term} <- @terms do
    @tag timeout: 120_000
    test "#{name}: the call returns, no scheduler is held, the next event is not harmed" do
      assert each_time(fn -> captured(fn -> unquote(term) end) end) == []
    end
  end

  defp captured(prepare) do
    collector = start_collector(keep: true)
    client = start_client(collector)

    run = fn term ->
      :ok = Analytics.capture(client, "u", "e", %{a: term})
      :ok = Analytics.capture(client, term, "e")
      :ok = Analytics.capture(client, "u", "next")
    end

    long = long_schedules(prepare, run)
    assert %{captured: 3, queued: queued, dropped: dropped} = stats = Analytics.stats(client)
    assert queued >= 1 and balanced?(stats)
    assert Map.keys(dropped) -- [:too_large] == []
    assert Analytics.flush(client) == :ok
    assert List.last(names(collector)) == "next"
    long
  end

  @tag :resident
  @tag timeout: 300_000
  test "memory comes back after terms that are too large" do
    # In a VM of its own, which gives back at once what it frees: by default it keeps large pieces for seconds.
    script = """
    {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "#{nobody()}")

    capture = fn ->
      term = %{a: Enum.to_list(1..300_000), b: String.duplicate("x", 5_000_000)}
      BilldogEng.Analytics.capture(client, "u", "e", term)
    end

    resident = fn ->
      :erlang.garbage_collect()
      [_, kib] = Regex.run(~r/VmRSS:\\s+(\\d+)/, File.read!("/proc/self/status"))
      String.to_integer(kib)
    end

    in_turn = fn n -> for _ <- 1..n, do: Task.await(Task.async(capture), :infinity) end
    in_turn.(4)
    before = resident.()
    in_turn.(60)
    grown = resident.() - before
    %{dropped: %{too_large: 64}, queued_bytes: 0} = BilldogEng.Analytics.stats(client)
    IO.puts("grown by \#{grown} KiB")
    System.halt(0)
    """

    vm = BilldogEng.VM.start(script: script, env: [ERL_FLAGS: "+MMmcs 0"])
    assert {output, 0} = BilldogEng.VM.ended(vm)
    assert [_, grown] = Regex.run(~r/grown by (-?\d+) KiB/, output)
    # Of 60 events, each dropped at 1 MiB of JSON.
    assert String.to_integer(grown) < 16 * 1024
  end
end
