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

  alias BilldogEng.{Context, Visitor}
  alias BilldogEng.Client.Hooks
  alias BilldogEng.Log.Warning

  @compile {:no_warn_undefined, Plug.Conn}

  # In the process dictionary: the id of the request that failed last, and whose it was.
  @failed {__MODULE__, :failed}

  @doc false
  def init(opts), do: options(opts, "BilldogEng.Plug")

  @doc false
  def call(%{private: private} = conn, opts) do
    properties =
      %{} |> put(:route, BilldogEng.Telemetry.Phoenix.route(conn)) |> put(:request_id, request_id(conn))

    context = context(conn, properties, opts)
    conn = if is_map_key(private, :billdogeng_context), do: conn, else: leave_once_sent(conn)
    Process.delete(@failed)
    Context.put(context)
    with_context(conn, context)
  end

  defp leave_once_sent(conn), do: Plug.Conn.register_before_send(conn, &__MODULE__.leave/1)

  @doc false
  # What tells of the request later (its telemetry, after the response) takes the context from the conn.
  def leave(conn) do
    context = Context.get()
    # A crash is logged after its page was sent.
    if is_integer(conn.status) and conn.status >= 500 and context != nil,
      do: Process.put(@failed, {request_id(conn), context.distinct_id})

    Context.leave()
    with_context(conn, context)
  end

  @doc false
  # Whose the request was that this process has answered with an error page, if it is the one of this id.
  def failed(request_id) do
    case Process.get(@failed) do
      {^request_id, distinct_id} when request_id != nil -> distinct_id
      _ -> nil
    end
  end

  @doc false
  # The context of the request that this process is at and hasn't answered: an exit or a throw is told of with the
  # conn as it was before all plugs.
  def unanswered do
    with %{properties: %{request_id: id}} = context when id != nil <- Context.get(),
         ^id <- Logger.metadata()[:request_id],
         do: context,
         else: (_ -> nil)
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

  # ── what it has in common with BilldogEng.LiveView ──

  @doc false
  def options(opts, whose) do
    valid = Keyword.keyword?(opts) and Keyword.keys(opts) -- [:distinct_id, :properties] == []

    unless valid do
      raise ArgumentError, "#{whose} takes a keyword list of :distinct_id and :properties"
    end

    for {option, value} <- opts, value != nil and not is_function(value, 1) and not mfa?(value) do
      raise ArgumentError,
            "the option #{inspect(option)} of #{whose} takes a function, or {module, function, args}"
    end

    opts
  end

  defp mfa?({module, function, args}), do: is_atom(module) and is_atom(function) and is_list(args)
  defp mfa?(_value), do: false

  @doc false
  # Of a conn or a socket. Analytics break no page.
  def context(of, properties, opts) do
    given = if function = opts[:properties], do: call_with(function, of), else: %{}

    id =
      if function = opts[:distinct_id],
        do: call_with(function, of),
        else: user_id(of.assigns) || Visitor.id(of)

    %{distinct_id: id, properties: Map.merge(properties, Map.new(given || %{}))}
  rescue
    error -> failed(properties, "raised #{inspect(error.__struct__)}", __STACKTRACE__)
  catch
    kind, _ -> failed(properties, "ended by #{kind}", __STACKTRACE__)
  end

  defp call_with({module, function, args}, of), do: apply(module, function, [of | args])
  defp call_with(function, of), do: function.(of)

  defp user_id(%{current_scope: %{user: %{id: id}}}), do: id
  defp user_id(%{current_user: %{id: id}}), do: id
  defp user_id(_assigns), do: nil

  @doc false
  # Of a channel's socket, whose assigns hold the ID itself in the guides of Phoenix.
  def channel_user_id(assigns) do
    case {user_id(assigns), assigns} do
      {nil, %{current_user: id}} when is_binary(id) or is_integer(id) -> id
      {nil, %{user_id: id}} -> id
      {id, _assigns} -> id
    end
  end

  defp failed(properties, what, stacktrace) do
    at = Hooks.at(stacktrace)

    Warning.once(
      {:context, at},
      "a function for a context's :distinct_id or :properties #{what}#{at}; it has none"
    )

    %{distinct_id: nil, properties: properties}
  end
end
