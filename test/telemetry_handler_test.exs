defmodule BilldogEng.TelemetryHandlerTest do
  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog

  alias BilldogEng.{Context, Telemetry}

  doctest BilldogEng.Telemetry, except: [measure: 1]

  setup do
    collector = start_collector()
    # Each test has an event and a handler of its own.
    event = [:test, :"event_#{System.unique_integer([:positive])}", :stop]
    %{collector: collector, client: start_client(collector), event: event}
  end

  defp attach(client, event, opts) do
    id = Keyword.get(opts, :id, make_ref())
    assert Telemetry.attach(client, event, Keyword.put(opts, :id, id)) == :ok
    on_exit(fn -> Telemetry.detach(id) end)
    id
  end

  defp captured(client, collector) do
    assert Analytics.flush(client) == :ok
    for event <- Collector.events(collector), do: {event["event_name"], event["user_id"], event["properties"]}
  end

  defp counts(id) do
    Telemetry.handlers() |> Enum.find(&(&1.id == id)) |> Map.take([:captured, :without_id, :failed])
  end

  describe "an attached event" do
    test "is captured according to the options", %{client: client, collector: collector, event: event} do
      attach(client, event,
        event: fn %{total: total}, _ -> if total > 100, do: "large_order", else: "order" end,
        distinct_id: fn _, %{user: user} -> user end,
        properties: fn %{total: total}, _ -> %{total: total} end,
        groups: fn _, %{team: team} -> [team: team] end,
        filter: fn %{total: total}, _ -> total > 1 end
      )

      for total <- [1, 5, 500] do
        assert :telemetry.execute(event, %{total: total}, %{user: "u#{total}", team: "t", token: "s3cret"}) ==
                 :ok
      end

      assert captured(client, collector) == [
               {"order", "u5", %{"total" => 5, "$groups" => %{"team" => "t"}}},
               {"large_order", "u500", %{"total" => 500, "$groups" => %{"team" => "t"}}}
             ]
    end

    test "has its own name by default, and nothing of the metadata", context do
      %{client: client, collector: collector, event: event} = context
      attach(client, event, distinct_id: 7)
      :telemetry.execute(event, %{duration: 1}, %{token: "s3cret"})
      assert captured(client, collector) == [{Enum.join(event, "."), 7, %{}}]
    end

    test "can be one of several, which a function of three arguments receives", context do
      %{client: client, collector: collector, event: event} = context
      other = event ++ [:other]
      id = attach(client, [event, other], distinct_id: "u", event: fn event, _, _ -> List.last(event) end)
      :telemetry.execute(event, %{})
      :telemetry.execute(other, %{})
      assert [{"stop", "u", %{}}, {"other", "u", %{}}] = captured(client, collector)
      assert %{events: events} = Enum.find(Telemetry.handlers(), &(&1.id == id))
      assert Enum.sort(events) == Enum.sort([event, other])
    end

    test "for which the name is nil is not captured", %{client: client, event: event} do
      id = attach(client, event, distinct_id: "u", event: fn _, _ -> nil end)
      :telemetry.execute(event, %{})
      assert counts(id) == %{captured: 0, without_id: 0, failed: 0}
    end

    test "is the client's that has the name now", %{collector: collector, event: event} do
      name = :"client_#{System.unique_integer([:positive])}"
      attach(name, event, distinct_id: "u", event: "e")
      :telemetry.execute(event, %{})
      client = start_client(collector, name: name)
      :telemetry.execute(event, %{})
      assert captured(client, collector) == [{"e", "u", %{}}]
    end

    test "reaches the client of a struct, whose key is in no handler", %{collector: collector, event: event} do
      client = BilldogEng.new!("s3cretkey", host: Collector.url(collector), shutdown_timeout: 0)
      assert Telemetry.attach(client, event, event: "e", distinct_id: "u") == :ok
      id = {Telemetry, client.analytics, event}
      on_exit(fn -> Telemetry.detach(id) end)
      :telemetry.execute(event, %{})
      assert captured(client, collector) == [{"e", "u", %{}}]
      refute inspect(:telemetry.list_handlers(event), structs: false) =~ "s3cretkey"
      refute inspect(Telemetry.handlers(), structs: false) =~ "s3cretkey"
    end
  end

  describe "whose an event is" do
    test "of the process's context is the distinct ID", %{client: client, collector: collector, event: event} do
      attach(client, event, event: "e")
      Context.put(distinct_id: "a")
      :telemetry.execute(event, %{})
      Task.await(Task.async(fn -> :telemetry.execute(event, %{}) end))
      assert captured(client, collector) == [{"e", "a", %{}}, {"e", "a", %{}}]
    end

    test "of the request overrides that of its process", context do
      %{client: client, collector: collector, event: event} = context
      id = attach(client, event, event: "e")
      Context.put(distinct_id: "earlier")
      own = %{billdogeng_context: %{distinct_id: "own", properties: %{}}}
      :telemetry.execute(event, %{}, %{conn: %{private: own}})
      capture_log(fn -> :telemetry.execute(event, %{}, %{conn: %{private: %{}}}) end)
      assert captured(client, collector) == [{"e", "own", %{}}]
      assert counts(id).without_id == 1
    end

    test "is none where nobody gives one: nothing is captured, none is invented, and that is logged once",
         context do
      %{client: client, event: event} = context
      id = attach(client, event, id: "orders", distinct_id: fn _, metadata -> metadata.user end)

      log =
        capture_log(fn ->
          for user <- [nil, "", nil], do: :telemetry.execute(event, %{}, %{user: user, token: "s3cret"})
        end)

      assert [_, _] = String.split(log, "[info]")

      assert log =~
               ~s(the handler "orders" captured nothing for #{inspect(event)}: its :distinct_id returned none)

      refute log =~ "s3cret"
      assert counts(id) == %{captured: 0, without_id: 3, failed: 0}
      assert Analytics.stats(client).captured == 0
    end

    test "that is missing is logged once for each event, view and reason", %{client: client, event: event} do
      other = event ++ [:other]
      assert Telemetry.attach(client, [event, other], id: "views") == :ok
      on_exit(fn -> Telemetry.detach("views") end)
      view = fn name -> %{socket: %{view: name, parent_pid: nil, root_pid: self()}} end
      request = &%{conn: %{private: %{billdogeng_context: &1}}, plug: ShopWeb.PageController}
      anonymous = %{distinct_id: nil, properties: %{}}

      reported = fn event, metadata ->
        capture_log(fn -> for _ <- 1..2, do: :telemetry.execute(event, %{}, metadata) end)
      end

      # An anonymous visitor does not use up the line of a missing hook.
      Context.put(distinct_id: nil)

      assert reported.(event, view.(ShopWeb.ListLive)) =~
               "in ShopWeb.ListLive: the visitor is anonymous: no current_scope.user"

      Context.clear()
      hook = "BilldogEng.LiveView did not run. Add it to the on_mount of the view's live_session"
      assert reported.(event, view.(ShopWeb.ListLive)) =~ "in ShopWeb.ListLive: " <> hook
      assert reported.(event, view.(ShopWeb.OtherLive)) =~ "in ShopWeb.OtherLive: " <> hook
      assert reported.(other, view.(ShopWeb.OtherLive)) =~ "#{inspect(other)} in ShopWeb.OtherLive: " <> hook
      assert reported.(event, request.(anonymous)) =~ "in ShopWeb.PageController: the visitor is anonymous"

      assert reported.(event, %{conn: %{private: %{}}, plug: ShopWeb.PageController}) =~
               "in ShopWeb.PageController: BilldogEng.Plug did not run. Add it to the pipeline of the route"

      failed = %{
        conn: %{private: %{}},
        plug: ShopWeb.FailingController,
        kind: :error,
        reason: %RuntimeError{}
      }

      assert reported.(event, failed) =~
               "in ShopWeb.FailingController: BilldogEng.Plug did not run. The request failed before it"

      unknown = %{failed | reason: %{__struct__: Phoenix.Router.NoRouteError}}
      refute reported.(other, unknown) =~ "captured nothing"

      channel = %{socket: %{channel: ShopWeb.RoomChannel, assigns: %{}}}

      assert reported.(event, channel) =~
               "in ShopWeb.RoomChannel: the socket has no user. Assign current_scope"

      assert reported.(event, %{}) =~ "the process has no context"

      for known <- [view.(ShopWeb.OtherLive), channel, %{}],
          do: refute(reported.(event, known) =~ "captured nothing")

      # Those of a handler that was detached are forgotten.
      assert Telemetry.detach("views") == :ok

      refute Enum.any?(
               :persistent_term.get(),
               &match?({{BilldogEng.Telemetry.MissingId, _, ^event, _, _}, _}, &1)
             )
    end

    test "of a channel is that of its socket's assigns, unless join/3 has put a context", context do
      %{client: client, collector: collector, event: event} = context
      attach(client, event, event: "e")
      channel = &:telemetry.execute(event, %{}, %{socket: %{channel: ShopWeb.RoomChannel, assigns: &1}})

      capture_log(fn ->
        channel.(%{current_scope: %{user: %{id: 1}}})
        channel.(%{current_user: %{id: "a"}})
        channel.(%{current_user: "b"})
        channel.(%{user_id: "c"})
        channel.(%{current_user: nil, user_id: nil})
        channel.(%{current_user: %{name: "s3cret"}})
        Context.put(distinct_id: "own")
        channel.(%{user_id: "c"})
      end)

      assert [1, "a", "b", "c", "own"] = for({_, id, _} <- captured(client, collector), do: id)
    end
  end

  describe "a sample" do
    test "has a user as a whole or not at all, whatever the event", context do
      %{client: client, collector: collector, event: event} = context
      other = event ++ [:other]
      by_user = [distinct_id: fn _, metadata -> metadata.user end, sample_rate: 0.5]
      attach(client, event, [event: "e"] ++ by_user)
      attach(client, other, [event: "o"] ++ by_user)

      for user <- 1..200, event <- [event, other, event], do: :telemetry.execute(event, %{}, %{user: user})

      by_user = client |> captured(collector) |> Enum.group_by(&elem(&1, 1), &elem(&1, 0))
      assert by_user |> Map.values() |> Enum.uniq() == [["e", "o", "e"]]
      half = for(user <- 1..200, :erlang.phash2(user) < 2 ** 26, do: user)
      assert Enum.sort(Map.keys(by_user)) == half
    end

    test "of 0 has nobody, of 1 everybody", %{client: client, collector: collector, event: event} do
      for rate <- [0, 0.0, 1, 1.0] do
        attach(client, event, distinct_id: "u", event: "#{rate}", sample_rate: rate)
      end

      :telemetry.execute(event, %{})
      assert client |> captured(collector) |> Enum.map(&elem(&1, 0)) |> Enum.sort() == ["1", "1.0"]
    end
  end

  describe "a handler that fails" do
    test "stays attached, is counted, and logged once without the metadata", context do
      %{client: client, collector: collector, event: event} = context

      failures = [
        event: fn _, %{user: user} -> raise "no #{user}" end,
        distinct_id: fn _, %{user: user} -> throw(user) end,
        properties: fn _, %{user: user} -> exit(user) end,
        groups: fn _, metadata -> Map.fetch!(metadata, metadata.user) end,
        filter: fn _, %{user: user} -> user.name end
      ]

      for {option, fails} <- failures do
        opts = Keyword.merge([id: {option, event}, event: "e", distinct_id: "u"], [{option, fails}])
        id = attach(client, event, opts)

        log =
          capture_log(fn ->
            for _ <- 1..3, do: assert(:telemetry.execute(event, %{}, %{user: "s3cret"}) == :ok)
          end)

        assert [_] = Regex.scan(~r/the handler .* (raised|ended by) .* on \[/, log)
        assert log =~ "telemetry_handler_test.exs:"
        refute log =~ "s3cret"
        assert counts(id) == %{captured: 0, without_id: 0, failed: 3}
        assert [%{id: ^id}] = :telemetry.list_handlers(event)
        Telemetry.detach(id)
      end

      assert captured(client, collector) == []
    end
  end

  describe "options" do
    test "that can't be used are refused by their names, and nothing is attached", context do
      %{client: client, event: event} = context

      wrong = [
        filter: true,
        filter: fn -> true end,
        properties: "s3cret",
        properties: [1],
        groups: ~D[2026-01-01],
        distinct_id: %{id: "s3cret"},
        sample_rate: 2,
        sample_rate: "all",
        event: %{},
        evnt: "e"
      ]

      for {option, value} <- wrong do
        error = assert_raise ArgumentError, fn -> Telemetry.attach(client, event, [{option, value}]) end
        assert error.message =~ ":#{option}"
        refute error.message =~ "s3cret"
      end

      assert_raise ArgumentError, fn -> Telemetry.attach(client, event, [:event]) end
      assert :telemetry.list_handlers(event) == []
    end

    test "name the handler, by default after its client and event", %{client: client, event: event} do
      assert Telemetry.attach(client, event) == :ok
      assert Telemetry.attach(client, event) == {:error, :already_exists}
      assert Telemetry.attach(:another, event) == :ok
      assert Telemetry.detach({Telemetry, client, event}) == :ok
      assert Telemetry.detach({Telemetry, client, event}) == {:error, :not_found}
      assert [%{id: {Telemetry, :another, ^event}}] = :telemetry.list_handlers(event)
      assert Telemetry.detach({Telemetry, :another, event}) == :ok
    end
  end

  test "a handler of the app's own is not ours to detach", %{event: event} do
    id = make_ref()
    :ok = :telemetry.attach(id, event, &__MODULE__.ignore/4, nil)
    on_exit(fn -> :telemetry.detach(id) end)
    assert Telemetry.detach(id) == {:error, :not_found}
    assert [_] = :telemetry.list_handlers(event)
  end

  def ignore(_, _, _, _), do: :ok

  test "an event that comes while its handler goes is harmless", %{client: client, event: event} do
    id = attach(client, event, distinct_id: "u")
    assert [%{function: handle, config: key}] = :telemetry.list_handlers(event)
    Telemetry.detach(id)
    assert handle.(event, %{}, %{}, key) == :ok
    assert Analytics.stats(client).captured == 0
  end

  @tag :tmp_dir
  test "without :telemetry attach/3 names what is missing", %{tmp_dir: dir} do
    # This library as it is, but for the tests' stand-in.
    for part <- ["ebin", "priv"] do
      File.mkdir_p!(Path.join([dir, "billdogeng", part]))
      File.cp_r!(Application.app_dir(:billdogeng, part), Path.join([dir, "billdogeng", part]))
    end

    File.rm!(Path.join(dir, "billdogeng/ebin/telemetry.beam"))

    script = """
    [] = BilldogEng.Telemetry.handlers()
    {:error, :not_found} = BilldogEng.Telemetry.detach(:any)

    try do
      BilldogEng.Telemetry.attach(:client, [:a, :b], [])
    rescue
      error in ArgumentError -> IO.write(error.message)
    end
    """

    args = ["-pa", Path.join(dir, "billdogeng/ebin"), "-e", script]
    assert {message, 0} = System.cmd("elixir", args, stderr_to_stdout: true)

    assert message ==
             ~s(handlers need :telemetry, which the app does not have: add {:telemetry, "~> 1.0"} to its deps)
  end
end
