defmodule BilldogEng.LiveDashboardTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.LiveDashboard
  alias BilldogEng.LiveDashboard.{Chart, Drops, Sentence, Source}

  # In place of LiveDashboard, which is no dependency of this library: what `use` of a page builder brings into a module,
  # and a template that is returned as it is.
  defmodule Elixir.Phoenix.LiveDashboard.PageBuilder do
    @callback menu_link(term(), map()) :: term()
    @callback mount(map(), map(), term()) :: term()
    @callback render(map()) :: term()
    @callback handle_refresh(term()) :: term()
    @callback handle_event(binary(), map(), term()) :: term()

    defmacro __using__(_opts) do
      quote do
        @behaviour Phoenix.LiveDashboard.PageBuilder
        import Phoenix.LiveDashboard.PageBuilder
      end
    end

    defmacro sigil_H({:<<>>, _, [template]}, _modifiers), do: quote(do: {unquote(template), var!(assigns)})
  end

  defmodule Elixir.Phoenix.Component do
    def assign(socket, assigns), do: update_in(socket.assigns, &Map.merge(&1, assigns))
  end

  defmodule Page do
    use BilldogEng.LiveDashboard, client: BilldogEng.LiveDashboardTest.Client
  end

  defmodule Titled do
    use BilldogEng.LiveDashboard, client: :nobody, title: "Events"
  end

  defp socket, do: %{assigns: %{page: %{node: node()}}}

  defp html(%{assigns: %{billdogeng: {:safe, html}}}), do: IO.iodata_to_binary(html)

  # The page as text.
  defp text(socket), do: socket |> html() |> String.replace(~r/<[^>]*>/, " ") |> String.replace(~r/\s+/, " ")

  describe "a page" do
    test "shows the state, the counters and the drops, updated at each refresh" do
      client = start_client(nobody(), name: __MODULE__.Client, max_queue_size: 1_200)
      {:ok, socket} = Page.mount(%{}, %{}, socket())
      assert text(socket) =~ "Idle: nothing was sent yet; nothing is queued."

      for _ <- 1..1_234, do: Analytics.capture(client, "u", "e")
      {:noreply, socket} = Page.handle_refresh(socket)
      assert text(socket) =~ "1,200 of 1,200 queued, oldest 0 s."
      assert text(socket) =~ "Captured 1,234 Delivered 0 Dropped 34 Queued 1,200 of 1,200"
      assert text(socket) =~ "queue_full 34 The queue reached :max_queue_size"
    end

    test "names a node without the client" do
      {:ok, socket} = Titled.mount(%{}, %{}, socket())
      assert text(socket) =~ "No client :nobody is running on #{node()}."
      {:ok, socket} = Titled.mount(%{}, %{}, %{assigns: %{page: %{node: :nobody@nowhere}}})
      assert text(socket) =~ "nobody@nowhere"
    end

    test "has its title in the menu" do
      assert Page.menu_link(%{}, %{}) == {:ok, "Analytics"}
      assert Titled.menu_link(%{}, %{}) == {:ok, "Events"}
    end

    test "without a client is refused when it is compiled" do
      assert_raise ArgumentError, ~r/takes :client/, fn ->
        Code.compile_string("defmodule BilldogEng.LiveDashboardTest.None, do: use(BilldogEng.LiveDashboard)")
      end
    end

    test "uses in its template only what is assigned, and contains no script, no style and no key" do
      name = :"dashboard_#{System.unique_integer([:positive])}"
      start_client(nobody(), name: name, api_key: "secret-of-the-page")
      {:ok, socket} = Titled.mount(%{}, %{}, socket())
      {template, _} = Titled.render(socket.assigns)
      used = for [_, name] <- Regex.scan(~r/@(\w+)/, template), uniq: true, do: String.to_atom(name)
      assert used == [:billdogeng]
      html = name |> LiveDashboard.html(node()) |> IO.iodata_to_binary()
      refute html =~ ~r/<script|<style| style=| on[a-z]+=|secret-of-the-page/
    end

    test "escapes what an ingest answers" do
      name = :"dashboard_#{System.unique_integer([:positive])}"
      collector = start_collector()
      client = start_client(collector, name: name)

      Collector.respond(
        collector,
        {:json, 401, ~s({"success":false,"error":{"code":"<b>","message":"<script>"}})}
      )

      Analytics.capture(client, "u", "e")
      assert {:error, _} = Analytics.flush(client)
      html = name |> LiveDashboard.html(node()) |> IO.iodata_to_binary()
      refute html =~ "<script>"
      assert html =~ "&lt;script&gt;"
    end
  end

  describe "a test event" do
    test "is delivered, with what was queued before it" do
      name = :"dashboard_#{System.unique_integer([:positive])}"
      collector = start_collector()
      client = start_client(collector, name: name)
      Analytics.capture(client, "u", "before")
      assert {:ok, text} = Source.send_test_event(name, node())
      assert text =~ "Delivered the event billdogeng_test_event of billdogeng-test"
      assert names(collector) == ["before", "billdogeng_test_event"]
    end

    test "that fails stays queued, and the result has the cause and the remedy" do
      name = :"dashboard_#{System.unique_integer([:positive])}"
      collector = start_collector()
      client = start_client(collector, name: name)
      Collector.respond(collector, {:status, 401})
      assert {:error, text} = Source.send_test_event(name, node())
      assert text =~ "Not delivered, it stays in the queue: the ingest returned HTTP 401"
      assert text =~ "Compare :api_key with the key of the project"
      assert %{queued: 1} = Analytics.stats(client)
    end

    test "for no client names the node" do
      assert Source.send_test_event(:nobody, node()) == {:error, "No client :nobody is running on #{node()}."}
    end
  end

  describe "the state in words" do
    @now ~U[2026-11-26 14:03:20Z]

    @states [
      {%{}, %{}, :good, "Idle: nothing was sent yet; nothing is queued."},
      {%{last_success: @now}, %{}, :good, "Idle: the last request succeeded; nothing is queued."},
      {%{mode: :disabled}, %{}, :warning,
       "Disabled: nothing is sent, and captures are only counted; nothing is queued."},
      {%{mode: :test}, %{}, :warning, "Test mode: nothing is sent; nothing is queued."},
      {%{state: :in_flight, in_flight: 20, queued: 20}, %{}, :good,
       "Sending 20 events to api.billdog.io; 20 of 1,000 queued."},
      {%{state: :in_flight, in_flight: 1, queued: 1}, %{since: 8_100}, :warning,
       "Waiting 8 s for the response of api.billdog.io to 1 event; 1 of 1,000 queued."},
      {%{state: :waiting, next_attempt_in: 2_000, queued: 5, last_error: 503}, %{max_queue_size: :infinity},
       :bad, "Retrying: 503 from api.billdog.io, next try at 14:03:22; 5 queued."},
      {%{state: :backing_off, next_attempt_in: 2_000, queued: 1_000, last_error: 503},
       %{oldest: ~U[2026-11-26 13:59:10Z]}, :bad,
       "Backing off: 503 from api.billdog.io, next try at 14:03:22; 1,000 of 1,000 queued, oldest 4 min."},
      {%{state: :backing_off, next_attempt_in: 2_000, queued: 7, last_error: 0},
       %{spool: %{events: 7, bytes: 10, age: 7_200_000}}, :bad,
       "Backing off: https://api.billdog.io refuses the connection: Connection refused, next try at 14:03:22; " <>
         "7 queued, oldest 2 h."},
      {%{state: :suspended, next_attempt_in: 600_000}, %{}, :bad,
       "Suspended: the project's quota is used up, the next try is at 14:13:20; nothing is queued."},
      {%{state: :draining, queued: 3}, %{}, :warning,
       "Draining: the client's process has ended, and its queue is being sent; 3 of 1,000 queued."},
      {%{last_error: 401, queued: 2}, %{}, :bad,
       "The last request failed: 401 from api.billdog.io; 2 of 1,000 queued."}
    ]

    for {{stats, debug, level, text}, index} <- Enum.with_index(@states) do
      test "#{index}: #{text}" do
        assert {unquote(level), unquote(text), _} =
                 Sentence.of(view(unquote(Macro.escape(stats)), unquote(Macro.escape(debug))))
      end
    end

    test "a refused key has the remedy" do
      assert {:bad, _, "Compare :api_key with the key of the project" <> _} =
               Sentence.of(view(%{state: :backing_off, last_error: 401}, %{}))
    end

    defp view(stats, debug) do
      stats =
        Map.merge(
          %{
            mode: :live,
            state: :idle,
            queued: 0,
            in_flight: 0,
            next_attempt_in: nil,
            last_error: nil,
            last_success: nil
          },
          stats
        )

      message = %{0 => "Connection refused", 401 => "HTTP 401", 503 => "HTTP 503"}

      error =
        with status when status != nil <- stats.last_error,
             do: %{status: status, message: message[status], code: nil, time: @now}

      debug =
        Map.merge(
          %{since: 0, host: "https://api.billdog.io", max_queue_size: 1_000, oldest: nil, spool: nil},
          debug
        )

      %{stats: %{stats | last_error: error}, debug: debug, now: @now}
    end
  end

  test "every drop reason has the meaning that guides/delivery.md gives it" do
    rows =
      for [_, reason, cause] <-
            Regex.scan(~r/^\| `([a-z_]+)` \| (.*) \|$/m, File.read!("guides/delivery.md")),
          do: {reason, cause}

    assert Map.new(Drops.reasons(), fn {reason, {meaning, _}} -> {Atom.to_string(reason), meaning} end) ==
             Map.new(rows)
  end

  test "a chart has a line for known points, and a gap where one is missing" do
    samples = [%{captured: 0}, %{captured: 10}, nil, %{captured: 5}, %{captured: 25}]
    assert Chart.rates(samples, :captured) == [10, nil, nil, 20]
    svg = [10, nil, 0, 20] |> Chart.svg(4, "label") |> IO.iodata_to_binary()
    assert [path] = Regex.run(~r/<path d="(M[^"H]*)" stroke="#5a3dc8"/, svg, capture: :all_but_first)
    assert path == "M0.0 32.0M200.0 58.0L300.0 6.0"
    assert IO.iodata_to_binary(Chart.svg([], 300, "none")) =~ ~s(d="")
  end
end
