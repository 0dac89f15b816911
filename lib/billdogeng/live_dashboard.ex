defmodule BilldogEng.LiveDashboard do
  @moduledoc """
  A page for [Phoenix LiveDashboard](https://hexdocs.pm/phoenix_live_dashboard) (0.8 or later) with a client's queue
  and its accounts, on whichever node is selected there. In a module of the app:

      defmodule MyAppWeb.AnalyticsPage do
        use BilldogEng.LiveDashboard, client: MyApp.Analytics
      end

  and in its router:

      live_dashboard "/dashboard", additional_pages: [analytics: MyAppWeb.AnalyticsPage]

  Options:

    * `:client` - the client's name; required
    * `:title` - of the page in the menu, `"Analytics"`

  Whatever the app has its own way of showing can be had by `BilldogEng.Analytics.stats/1`.
  """

  alias BilldogEng.Analytics
  alias BilldogEng.Client.Stats

  # LiveDashboard's own things are named in the quoted code alone, which is compiled with the app's module.
  @doc false
  defmacro __using__(opts) do
    quote do
      use Phoenix.LiveDashboard.PageBuilder

      @billdogeng_options BilldogEng.LiveDashboard.options!(unquote(opts))

      @impl true
      def menu_link(_session, _capabilities), do: {:ok, @billdogeng_options.title}

      @impl true
      def mount(_params, _session, socket), do: {:ok, billdogeng_assign(socket)}

      @impl true
      def handle_refresh(socket), do: {:noreply, billdogeng_assign(socket)}

      defp billdogeng_assign(socket) do
        shown = BilldogEng.LiveDashboard.shown(@billdogeng_options.client, socket.assigns.page.node)
        Phoenix.Component.assign(socket, shown)
      end

      @impl true
      def render(var!(assigns)) do
        ~H"""
        <.row :for={cards <- @cards}>
          <:col :for={{title, value, hint} <- cards}>
            <.card title={title} hint={hint}><%= value %></.card>
          </:col>
        </.row>
        <.fields_card title="Dropped, by reason" fields={@dropped} />
        <p :if={@note}><%= @note %></p>
        """
      end
    end
  end

  @doc false
  def options!(opts) do
    case Keyword.fetch(opts, :client) do
      {:ok, client} -> %{client: client, title: Keyword.get(opts, :title, "Analytics")}
      :error -> raise ArgumentError, "use BilldogEng.LiveDashboard takes :client, the name of a client"
    end
  end

  @doc false
  # What the page shows of the client on `node`: rows of cards with a title, a value and a hint, the drops by
  # reason, and a note where there is no such client.
  def shown(client, node) do
    case stats(client, node) do
      {:ok, stats} ->
        %{cards: cards(stats), dropped: Enum.sort_by(stats.dropped, fn {_, count} -> -count end), note: nil}

      :error ->
        %{cards: [], dropped: [], note: "No client #{inspect(client)} is running on #{node}."}
    end
  end

  defp stats(client, node) do
    {:ok, :erpc.call(node, Analytics, :stats, [client], 5_000)}
  catch
    _, _ -> :error
  end

  @doc false
  def cards(stats) do
    dropped = stats.dropped |> Map.values() |> Enum.sum()

    [
      [
        {"Queued", events(stats.queued), "Events not yet delivered, those in flight among them"},
        {"Queued bytes", bytes(stats.queued_bytes), "Of their JSON"},
        {"In flight", events(stats.in_flight), "Events of the batch that is being sent"}
      ],
      [
        {"Captured", events(stats.captured), "Events handed in; captured = delivered + dropped + queued"},
        {"Delivered", events(stats.delivered), "Events that the ingest accepted"},
        {"Dropped", events(dropped), "Events given up"}
      ],
      [
        {"Retries", events(stats.retries), "Requests after the first of a batch"},
        {"Replaced", events(stats.replaced), "Values written in another form than their own"},
        {"Mode", stats.mode, nil}
      ]
      | status(stats)
    ]
  end

  # A client of an older version, on another node, has none.
  defp status(%{state: _} = stats) do
    [
      [
        {"State", Stats.state(stats), "Of its flush thread"},
        {"Last error", Stats.last_error(stats.last_error), "Of the last request that failed"}
      ]
    ]
  end

  defp status(_stats), do: []

  # 1234567 as "1,234,567".
  defp events(count) do
    count
    |> Integer.digits()
    |> Enum.reverse()
    |> Enum.chunk_every(3)
    |> Enum.map_join(",", &Enum.join/1)
    |> String.reverse()
  end

  defp bytes(count) when count < 1024, do: "#{count} B"
  defp bytes(count) when count < 1024 * 1024, do: "#{Float.round(count / 1024, 1)} KiB"
  defp bytes(count), do: "#{Float.round(count / 1024 / 1024, 1)} MiB"
end
