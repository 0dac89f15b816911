defmodule BilldogEng.Plug do
  @moduledoc """
  A plug that puts the request's `BilldogEng.Context`: whose it is, its route and its id.

      # in the router, after what finds the user
      pipeline :browser do
        plug :fetch_session
        plug :fetch_current_scope_for_user
        plug BilldogEng.Plug
      end

  Options:

    * `:distinct_id` - a function of the conn that answers whose request it is, or nil where nobody knows. By
      default it is the `id` of what `mix phx.gen.auth` has assigned: `current_scope.user`, else `current_user`;
      else that of `BilldogEng.Visitor`, where the pipeline has it
    * `:properties` - a function of the conn that answers properties to have beside `route`, the pattern of the
      router's route, and `request_id`, that of `Plug.RequestId`

  Functions are of the form `&MyAppWeb.Analytics.visitor/1` or `{module, function, args}`, the conn being put
  before `args`: a plug's options are part of compiled code. One that fails costs no request; that is logged once.

  The context is the request's alone. It takes the place of one before it, nothing is merged, and it is gone once
  the response is sent (or begun to, where it is chunked): the same process may read another user's request next.
  What tells of a failed request later is matched with it by the id that `Plug.RequestId` gave it, and is nobody's
  where the endpoint has no such plug.
  """

  # Not `@behaviour Plug`, for it may be compiled before Plug is, or without it.

  alias BilldogEng.Context
  alias BilldogEng.Context.Request
  alias BilldogEng.Telemetry.Route

  @compile {:no_warn_undefined, Plug.Conn}

  @doc false
  def init(opts), do: Request.options(opts, "BilldogEng.Plug")

  @doc false
  def call(%{private: private} = conn, opts) do
    properties = %{} |> put(:route, Route.of_conn(conn)) |> put(:request_id, request_id(conn))

    context = Request.context(conn, properties, opts)
    conn = if is_map_key(private, :billdogeng_context), do: conn, else: leave_once_sent(conn)
    Request.delete_failed()
    Context.put(context)
    with_context(conn, context)
  end

  defp leave_once_sent(conn), do: Plug.Conn.register_before_send(conn, &__MODULE__.leave/1)

  @doc false
  # Telemetry of the request that comes after the response takes the context from the conn.
  def leave(conn) do
    context = Context.get()
    # A crash is logged after its page was sent.
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

  defp put(properties, _key, nil), do: properties
  defp put(properties, key, value), do: Map.put(properties, key, value)
end
