defmodule BilldogEng.LiveDashboard do
  @moduledoc """
  A page for [Phoenix LiveDashboard](https://hexdocs.pm/phoenix_live_dashboard) (0.8 or later) that shows what a client is
  doing, on the node that is selected there.

  Define the page in a module of the app:

      defmodule MyAppWeb.AnalyticsPage do
        use BilldogEng.LiveDashboard, client: MyApp.Analytics
      end

  Add it to the router:

      live_dashboard "/dashboard", additional_pages: [analytics: MyAppWeb.AnalyticsPage]

  Options:

    * `:client` - the client's name. Required
    * `:title` - the page's title in the menu. Default: `"Analytics"`

  The page shows:

    * the client's state in words, and what to do if events do not arrive:
      `Backing off: 503 from api.billdog.io, next try at 14:03:22; 1,000 of 1,000 queued, oldest 4 min.`
    * events captured and delivered per second, and the queue's length, over the last five minutes. The samples begin with
      the first look at the page since the start of the node
    * the host, the last error, the last success, and the counters of `BilldogEng.Analytics.stats/1` for events and person
      updates, and the spool
    * dropped events by reason, with the meaning of each reason and what to do
    * a button that captures a test event and flushes the queue

  The page is refreshed as often as LiveDashboard is set to. It contains no script and no style of its own, so it works with
  any content security policy that LiveDashboard works with. It never shows the API key.
  """

  alias BilldogEng.LiveDashboard.{HTML, Source}

  # LiveDashboard's modules are named only in the quoted code, which is compiled with the app's module.
  @doc false
  defmacro __using__(opts) do
    quote do
      use Phoenix.LiveDashboard.PageBuilder

      @billdogeng_options BilldogEng.LiveDashboard.options!(unquote(opts))

      @impl true
      def menu_link(_session, _capabilities), do: {:ok, @billdogeng_options.title}

      @impl true
      def mount(_params, _session, socket), do: {:ok, billdogeng_assign(socket, nil)}

      @impl true
      def handle_refresh(socket), do: {:noreply, billdogeng_assign(socket, nil)}

      @impl true
      def handle_event("billdogeng_test_event", _params, socket) do
        sent = BilldogEng.LiveDashboard.send_test_event(@billdogeng_options.client, socket.assigns.page.node)
        {:noreply, billdogeng_assign(socket, sent)}
      end

      defp billdogeng_assign(socket, sent) do
        html = BilldogEng.LiveDashboard.html(@billdogeng_options.client, socket.assigns.page.node, sent)
        Phoenix.Component.assign(socket, %{billdogeng: {:safe, html}})
      end

      @impl true
      def render(var!(assigns)) do
        ~H"""
        <div><%= @billdogeng %></div>
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
  # Returns the page of the client on `node` as iodata.
  def html(client, node, sent \\ nil), do: client |> Source.read(node) |> HTML.page(client, node, sent)

  @doc false
  defdelegate send_test_event(client, node), to: Source
end
