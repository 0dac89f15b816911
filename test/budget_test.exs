defmodule BilldogEng.BudgetTest do
  # Terms with shared parts: of 60 levels, each twice the one below, no walk over the whole comes to an end.
  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog
  alias BilldogEng.{Context, Transport}
  alias BilldogEng.Terms.Budget

  alias BilldogEng.Terms.Budget.{Encodable, Named, Quoting, Selfish, Showy, Tree}

  defp shared(levels), do: Enum.reduce(1..levels, [1, 2, 3], fn _, below -> [below, below] end)
  defp wide(levels), do: Enum.reduce(1..levels, 1, fn _, below -> List.duplicate(below, 8) end)

  # Runs `fun` where a term that grows costs that process alone; returns its value and its reductions. It makes its
  # terms itself: a message or a closure would be a copy without shared parts.
  defp bounded(fun, most \\ 20_000_000) do
    test = self()

    run = fn ->
      {:reductions, before} = Process.info(self(), :reductions)
      value = fun.()
      {:reductions, now} = Process.info(self(), :reductions)
      send(test, {:done, self(), value, now - before})
    end

    heap = %{size: 30_000_000, kill: true, error_logger: false}
    {pid, ref} = :erlang.spawn_opt(run, [:monitor, max_heap_size: heap])
    assert_receive {:DOWN, ^ref, :process, ^pid, :normal}, 60_000
    assert_received {:done, ^pid, value, reductions}
    assert reductions < most
    value
  end

  defp client_with_events do
    collector = start_collector()
    {start_client(collector), collector}
  end

  defp events(client, collector) do
    assert Analytics.flush(client) == :ok
    Collector.events(collector)
  end

  for levels <- [20, 60] do
    test "a struct over a shared term of #{levels} levels is replaced by a cut text" do
      {client, collector} = client_with_events()

      for struct <- [%Tree{}, %Showy{}, %{__struct__: NoSuchModule, of: nil}] do
        bounded(fn -> Analytics.capture(client, "u", "e", %{v: %{struct | of: shared(unquote(levels))}}) end)
      end

      assert [
               "#Truncated<BilldogEng.Terms.Budget.Tree>",
               "#Truncated<BilldogEng.Terms.Budget.Showy>",
               "#Truncated<NoSuchModule>"
             ] = for(event <- events(client, collector), do: event["properties"]["v"])
    end

    test "a bare shared term of #{levels} levels, alone, beside a pid, as a key and in a set is too_large" do
      client = start_client(nobody())

      for term <- [
            & &1,
            &[self(), &1],
            &%{&1 => 1},
            &%{{&1} => 1},
            &MapSet.new([&1]),
            &%{%Named{of: &1} => 1}
          ] do
        bounded(fn -> Analytics.capture(client, "u", "e", %{v: term.(shared(unquote(levels)))}) end)
      end

      assert %{captured: 6, dropped: %{too_large: 6}} = Analytics.stats(client)
    end

    test "an app's encoder isn't given a shared term of #{levels} levels, and its iodata is bounded too" do
      client = start_client(nobody())
      bounded(fn -> Analytics.capture(client, "u", "e", %{v: %Encodable{of: shared(unquote(levels))}}) end)
      bounded(fn -> Analytics.capture(client, "u", "e", %{v: %Encodable{of: {:twice, unquote(levels)}}}) end)
      assert %{captured: 2, dropped: %{too_large: 2}} = Analytics.stats(client)
    end

    test "exceptions, exits and throws of a shared term of #{levels} levels are captured with a cut message" do
      {client, collector} = client_with_events()

      for exception <- [
            &%KeyError{key: :a, term: &1},
            &%Quoting{term: &1},
            &{:exit, &1},
            &{:exit, {&1, {GenServer, :call, [self(), &1]}}},
            &{:throw, &1},
            &{:error, {:badmatch, &1}}
          ] do
        bounded(fn -> Analytics.capture_exception(client, "u", exception.(shared(unquote(levels))), []) end)
      end

      assert [
               "key :a not found",
               "",
               "#Truncated<list>",
               "exited in: GenServer.call/2: #Truncated<list>",
               "#Truncated<list>",
               "no match of right hand side value:" <> no_match
             ] = for(event <- events(client, collector), do: event["properties"]["$exception_message"])

      # Elixir's own words around it differ with its version.
      assert String.trim(no_match) == ~s("#Truncated<list>")
    end

    test "a stacktrace may hold a shared term of #{levels} levels as arguments and as a file" do
      {client, collector} = client_with_events()

      bounded(fn ->
        shared = shared(unquote(levels))
        stacktrace = [{Map, :fetch!, [shared, :a], [file: shared, line: 1]}]
        Analytics.capture_exception(client, "u", {:error, {:badkey, :a, shared}}, stacktrace)
      end)

      assert [%{"properties" => properties}] = events(client, collector)
      assert %{"$exception_type" => "KeyError"} = properties
      assert properties["$exception_message"] =~ "key :a not found"
      assert [%{"stacktrace" => %{"frames" => [frame]}}] = properties["$exception_list"]
      assert %{"function" => "Map.fetch!/2", "filename" => nil} = frame
    end

    test "a person update of a shared term of #{levels} levels is cut or too_large" do
      client = start_client(nobody())

      bounded(fn ->
        Analytics.set_person_properties(client, "u", set: %{a: %Tree{of: shared(unquote(levels))}})
      end)

      bounded(fn -> Analytics.set_person_properties(client, "u", set: %{{shared(unquote(levels))} => 1}) end)

      bounded(fn ->
        Analytics.set_person_properties(client, "u", set: %{a: [self(), shared(unquote(levels))]})
      end)

      assert %{captured: 3, dropped: %{too_large: 2}} = Analytics.stats(client).person_updates
    end

    test "a hook is given a shared term of #{levels} levels as it is, and its event is bounded" do
      client = start_client(nobody(), before_send: & &1, global_properties: %{app: 1})
      bounded(fn -> Analytics.capture(client, "u", "e", %{v: shared(unquote(levels))}) end)
      assert %{captured: 1, dropped: %{too_large: 1}} = Analytics.stats(client)
    end

    test "a client in mode: :test drops a shared term of #{levels} levels, too" do
      client = start_supervised!({Analytics, mode: :test})
      bounded(fn -> Analytics.capture(client, "u", "e", %{v: [self(), shared(unquote(levels))]}) end)
      assert %{captured: 1, dropped: %{too_large: 1}} = Analytics.stats(client)
    end

    test "a shared term of #{levels} levels is in no message to a process, and in no table" do
      server = spawn_link(fn -> Process.sleep(:infinity) end)

      :persistent_term.erase({BilldogEng.Log.Writer, :large_message})

      assert capture_log(fn ->
               bounded(fn -> Analytics.capture(server, "u", "e", %{v: shared(unquote(levels) + 10)}) end)
             end) =~ "for a client that is reached by messages: send less"

      assert Process.info(server, :message_queue_len) == {:message_queue_len, 0}

      bounded(fn ->
        Context.put(distinct_id: "u", properties: %{v: shared(unquote(levels) + 10)})
        assert Context.distinct_id() == "u"
      end)
    end

    test "Transport.request/2 refuses a body of a shared term of #{levels} levels" do
      config = Transport.config(host: nobody(), request_timeout: 1_000, gzip: false, max_retries: 0)

      for body <- [& &1, &%{a: [self(), &1]}] do
        assert {:error, %Error{code: "INVALID_REQUEST", message: "the body is too large" <> _}} =
                 bounded(
                   fn -> Transport.request(config, path: "/", body: body.(shared(unquote(levels) + 10))) end,
                   100_000_000
                 )
      end
    end
  end

  test "an improper list over a shared term is replaced by a cut text" do
    {client, collector} = client_with_events()
    bounded(fn -> Analytics.capture(client, "u", "e", %{v: [1, {shared(12)} | 2]}) end)
    assert [%{"properties" => %{"v" => "#Truncated<list>"}}] = events(client, collector)
  end

  test "a plain tree of 8⁶ leaves in a struct is replaced by a cut text" do
    {client, collector} = client_with_events()
    bounded(fn -> Analytics.capture(client, "u", "e", %{v: %Tree{of: wide(6)}}) end)

    assert [%{"properties" => %{"v" => "#Truncated<BilldogEng.Terms.Budget.Tree>"}}] =
             events(client, collector)
  end

  test "many structs, each within its bound, have one budget" do
    client = start_client(nobody())
    bounded(fn -> Analytics.capture(client, "u", "e", %{v: List.duplicate(%Tree{of: wide(4)}, 10_000)}) end)

    bounded(fn -> Analytics.capture(client, "u", "e", %{v: List.duplicate(%Tree{of: shared(60)}, 10_000)}) end)

    assert %{captured: 2, dropped: %{too_large: 2}} = Analytics.stats(client)
  end

  test "an encoder that captures its own struct comes to an end, and every event is accounted for" do
    client = start_client(nobody())
    bounded(fn -> Analytics.capture(client, "u", "e", %{v: %Selfish{client: client}}) end)
    assert %{captured: captured} = stats = Analytics.stats(client)
    assert captured > 1 and balanced?(stats)
  end

  test "structs of large containers are written as inspect/1 writes them" do
    {client, collector} = client_with_events()

    structs = [
      %Tree{of: Enum.to_list(1..100_000)},
      %Tree{of: Map.new(1..1_000, &{&1, &1})},
      %Tree{of: String.duplicate("x", 1_000_000)},
      %Tree{of: wide(3)},
      %Tree{of: List.to_tuple(Enum.to_list(1..10_000))}
    ]

    for struct <- structs, do: Analytics.capture(client, "u", "e", %{v: struct})

    assert for(event <- events(client, collector), do: event["properties"]["v"]) ==
             Enum.map(structs, &inspect/1)
  end

  test "inspect/1 prints what is within bounds and cuts the rest" do
    assert Budget.inspect(%{a: {1, [2]}}) == inspect(%{a: {1, [2]}})
    assert bounded(fn -> Budget.inspect({shared(60)}) end) == "#Truncated<tuple>"
    # A power of ten takes the time of many products.
    large = Bitwise.bsl(1, 3_321_928)
    assert bounded(fn -> Budget.inspect(large) end) == "#Truncated<integer>"
    assert bounded(fn -> Budget.inspect(%{a: shared(60)}) end) == "#Truncated<map>"
  end
end
