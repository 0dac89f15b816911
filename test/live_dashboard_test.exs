defmodule BilldogEng.LiveDashboardTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.LiveDashboard

  # In place of LiveDashboard, which this library doesn't bring: what `use` of a page builder brings into a
  # module, and a template that is handed out as it stands.
  defmodule Elixir.Phoenix.LiveDashboard.PageBuilder do
    @callback menu_link(term(), map()) :: term()
    @callback mount(map(), map(), term()) :: term()
    @callback render(map()) :: term()
    @callback handle_refresh(term()) :: term()

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

  defp values(cards), do: for(row <- cards, {title, value, _hint} <- row, into: %{}, do: {title, value})

  test "a page shows the queue and the accounts, anew at each refresh" do
    client = start_client(nobody(), name: __MODULE__.Client, max_queue_size: 1_200)
    {:ok, socket} = Page.mount(%{}, %{}, socket())
    assert %{"Queued" => "0", "Queued bytes" => "0 B", "Captured" => "0"} = values(socket.assigns.cards)

    for _ <- 1..1_234, do: Analytics.capture(client, "u", "e")
    {:noreply, socket} = Page.handle_refresh(socket)

    assert %{"Queued" => "1,200", "Captured" => "1,234", "Dropped" => "34", "Mode" => :live} =
             values(socket.assigns.cards)

    assert values(socket.assigns.cards)["Queued bytes"] =~ ~r/^\d+\.\d KiB$/
    assert socket.assigns.dropped == [queue_full: 34]
    assert socket.assigns.note == nil
  end

  test "a page says so where there is no client" do
    {:ok, socket} = Titled.mount(%{}, %{}, socket())
    assert %{cards: [], dropped: [], note: note} = socket.assigns
    assert note == "No client :nobody is running on #{node()}."
    {:ok, socket} = Titled.mount(%{}, %{}, %{assigns: %{page: %{node: :nobody@nowhere}}})
    assert socket.assigns.note =~ "nobody@nowhere"
  end

  test "its template takes nothing but what is assigned" do
    {:ok, socket} = Titled.mount(%{}, %{}, socket())
    {template, _} = Titled.render(socket.assigns)
    used = for [_, name] <- Regex.scan(~r/@(\w+)/, template), uniq: true, do: String.to_atom(name)
    assert used != []
    assert used -- Map.keys(socket.assigns) == []
  end

  test "it has its title in the menu" do
    assert Page.menu_link(%{}, %{}) == {:ok, "Analytics"}
    assert Titled.menu_link(%{}, %{}) == {:ok, "Events"}
  end

  test "a page without a client is refused when it is compiled" do
    assert_raise ArgumentError, ~r/takes :client/, fn ->
      Code.compile_string("defmodule BilldogEng.LiveDashboardTest.None, do: use(BilldogEng.LiveDashboard)")
    end
  end

  test "sums are shown in groups of three digits" do
    for {bytes, shown} <- [{0, "0 B"}, {1_023, "1023 B"}, {1_536, "1.5 KiB"}, {3_145_728, "3.0 MiB"}] do
      stats = %{queued: 1_234_567, queued_bytes: bytes, in_flight: 100, captured: 1_000, delivered: 0}
      stats = Map.merge(stats, %{retries: 12, replaced: 1, mode: :live, dropped: %{}})
      assert [[{_, "1,234,567", _}, {_, ^shown, _}, {_, "100", _}] | _] = LiveDashboard.cards(stats)
    end
  end

  test "the state and the last error are shown, of a client whose version has them" do
    counters = %{queued: 0, queued_bytes: 0, in_flight: 0, captured: 0, delivered: 0}
    counters = Map.merge(counters, %{retries: 0, replaced: 0, mode: :live, dropped: %{}})
    assert length(LiveDashboard.cards(counters)) == 3

    error = %{
      message: "unknown API key",
      status: 401,
      code: "INVALID_KEY",
      time: ~U[2026-01-01 10:00:00.123Z]
    }

    stats = Map.merge(counters, %{state: :backing_off, next_attempt_in: 9_001, last_error: error})
    assert [_, _, _, [{"State", state, _}, {"Last error", shown, _}]] = LiveDashboard.cards(stats)
    assert state == "backing_off, next attempt in 10 s"
    assert shown == "unknown API key (INVALID_KEY) at 2026-01-01T10:00:00Z"
    assert [_, _, _, [_, {_, "none", _}]] = LiveDashboard.cards(%{stats | last_error: nil})
  end
end
