defmodule BilldogEng.Context.Request do
  @moduledoc false
  # The user of a request, a LiveView or a channel: shared by `BilldogEng.Plug`, `BilldogEng.LiveView` and the
  # telemetry handlers.

  alias BilldogEng.{Context, Visitor}
  alias BilldogEng.Log.{Failure, Writer}

  # The process dictionary's key for the request that failed last: its ID and its distinct ID.
  @failed {__MODULE__, :failed}

  @doc false
  def options(opts, module) do
    valid = Keyword.keyword?(opts) and Keyword.keys(opts) -- [:distinct_id, :properties] == []

    unless valid do
      raise ArgumentError, "#{module} takes a keyword list of :distinct_id and :properties"
    end

    for {option, value} <- opts, value != nil and not is_function(value, 1) and not mfa?(value) do
      raise ArgumentError,
            "the option #{inspect(option)} of #{module} takes a function, or {module, function, args}"
    end

    opts
  end

  defp mfa?({module, function, args}), do: is_atom(module) and is_atom(function) and is_list(args)
  defp mfa?(_value), do: false

  @doc false
  # Returns the context of a conn or a socket. An app's function that fails breaks no page.
  def context(of, properties, opts) do
    given = if function = opts[:properties], do: call_with(function, of), else: %{}

    id =
      if function = opts[:distinct_id],
        do: call_with(function, of),
        else: user_id(of.assigns) || Visitor.id(of)

    %{distinct_id: id, properties: Map.merge(properties, Map.new(given || %{}))}
  catch
    kind, reason -> without_id(properties, Failure.shown(kind, reason, __STACKTRACE__), __STACKTRACE__)
  end

  defp call_with({module, function, args}, of), do: apply(module, function, [of | args])
  defp call_with(function, of), do: function.(of)

  defp user_id(%{current_scope: %{user: %{id: id}}}), do: id
  defp user_id(%{current_user: %{id: id}}), do: id
  defp user_id(_assigns), do: nil

  @doc false
  # Returns the user ID of a channel's socket. In Phoenix's guides its assigns hold the ID itself.
  def channel_user_id(assigns) do
    case {user_id(assigns), assigns} do
      {nil, %{current_user: id}} when is_binary(id) or is_integer(id) -> id
      {nil, %{user_id: id}} -> id
      {id, _assigns} -> id
    end
  end

  # Once for each place.
  defp without_id(properties, failure, stacktrace) do
    Writer.once({:context, Failure.place(stacktrace)}, {:context_failed, failure})
    %{distinct_id: nil, properties: properties}
  end

  # ── requests that fail ──

  @doc false
  def put_failed(request_id, distinct_id), do: Process.put(@failed, {request_id, distinct_id})

  @doc false
  def delete_failed, do: Process.delete(@failed)

  @doc false
  # Returns the distinct ID of the request that this process answered with an error page, if it has this request ID.
  def failed(request_id) do
    case Process.get(@failed) do
      {^request_id, distinct_id} when request_id != nil -> distinct_id
      _ -> nil
    end
  end

  @doc false
  # Returns the context of the request that this process serves and has not answered. Telemetry reports an exit or a
  # throw with the conn as it was before all plugs.
  def unanswered do
    with %{properties: %{request_id: id}} = context when id != nil <- Context.get(),
         ^id <- Logger.metadata()[:request_id],
         do: context,
         else: (_ -> nil)
  end
end
