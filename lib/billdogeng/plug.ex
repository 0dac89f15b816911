defmodule BilldogEng.Plug do
  @moduledoc """
  Puts the `BilldogEng.Context` of a request: its user, its route and its request ID.

      # in the router, after the plug that assigns the user
      pipeline :browser do
        plug :fetch_session
        plug :fetch_current_scope_for_user
        plug BilldogEng.Plug
      end

  Options:

    * `:distinct_id` - a function of the conn that returns the distinct ID, or nil for an anonymous request. Default: the
      `id` of `current_scope.user` or `current_user`, as `mix phx.gen.auth` assigns them, else the ID of
      `BilldogEng.Visitor` if the pipeline has that plug
    * `:properties` - a function of the conn that returns properties of the context. They are added to `route`, the
      pattern of the router's route, and `request_id`, the ID of `Plug.RequestId`. Default: none

  A function is `&MyAppWeb.Analytics.visitor/1` or `{module, function, args}`, which is called with the conn before
  `args`: a plug's options are part of compiled code. If it fails, the request continues, and the failure is logged once.

  The context replaces the one before it. It is removed when the response is sent (for a chunked response, when the
  response begins), because the same process may serve another user next. A crash that is reported later is matched with
  its request by the request ID of `Plug.RequestId`. Without that plug in the endpoint, the crash is anonymous.
  """

  # Without `@behaviour Plug`, because Plug may be compiled later, or missing.

  alias BilldogEng.Context
  alias BilldogEng.Context.Request
  alias BilldogEng.Telemetry.Route

  @compile {:no_warn_undefined, Plug.Conn}

  @doc false
  def init(opts), do: Request.options(opts, "BilldogEng.Plug")

  @doc false
  def call(%{private: private} = conn, opts) do
    properties =
      for {key, value} <- [route: Route.of_conn(conn), request_id: request_id(conn)],
          value != nil,
          into: %{},
          do: {key, value}

    context = Request.context(conn, properties, opts)
    registered? = is_map_key(private, :billdogeng_context)
    conn = if registered?, do: conn, else: Plug.Conn.register_before_send(conn, &__MODULE__.leave/1)
    Request.delete_failed()
    Context.put(context)
    with_context(conn, context)
  end

  @doc false
  # Telemetry that is emitted after the response reads the context from the conn.
  def leave(conn) do
    context = Context.get()
    # A crash is logged after its error page was sent.
    if is_integer(conn.status) and conn.status >= 500 and context != nil,
      do: Request.put_failed(request_id(conn), context.distinct_id)

    Context.leave()
    with_context(conn, context)
  end

  defp with_context(conn, context), do: %{conn | private: Map.put(conn.private, :billdogeng_context, context)}

  defp request_id(conn) do
    case List.keyfind(conn.resp_headers, "x-request-id", 0) do
      {_, id} -> id
      nil -> nil
    end
  end
end
