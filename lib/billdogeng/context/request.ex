defmodule BilldogEng.Context.Request do
  @moduledoc false
  # Finds the user of a request, a LiveView or a channel, for `BilldogEng.Plug`, `BilldogEng.LiveView` and the telemetry
  # handlers.

  alias BilldogEng.{Context, Visitor}
  alias BilldogEng.Log.{Failure, Writer}

  # The key in the process dictionary for the last request that failed: its request ID and its distinct ID.
  @failed {__MODULE__, :failed}

  # Returns `opts`, or raises `ArgumentError`.
  def options(opts, module) do
    valid = Keyword.keyword?(opts) and Keyword.keys(opts) -- [:distinct_id, :properties] == []

    unless valid do
      raise ArgumentError,
            "invalid options of #{module}: expected a keyword list of :distinct_id and :properties"
    end

    for {option, value} <- opts, value != nil and not is_function(value, 1) and not mfa?(value) do
      raise ArgumentError,
            "invalid value for #{inspect(option)} of #{module}: expected a function of one argument or " <>
              "{module, function, args}, got: #{inspect(value, limit: 10, printable_limit: 200)}"
    end

    opts
  end

  defp mfa?({module, function, args}), do: is_atom(module) and is_atom(function) and is_list(args)
  defp mfa?(_value), do: false

  # Returns the context of a conn or a socket. A function of the app that fails must not fail the request.
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

  # Returns the user ID of a channel's socket. Phoenix's guides assign the ID itself.
  def channel_user_id(assigns) do
    case {user_id(assigns), assigns} do
      {nil, %{current_user: id}} when is_binary(id) or is_integer(id) -> id
      {nil, %{user_id: id}} -> id
      {id, _assigns} -> id
    end
  end

  # Logs the failure once for each place in the app's code.
  defp without_id(properties, failure, stacktrace) do
    Writer.once({:context, Failure.place(stacktrace)}, {:context_failed, failure})
    %{distinct_id: nil, properties: properties}
  end

  # ── requests that fail ──

  def put_failed(request_id, distinct_id), do: Process.put(@failed, {request_id, distinct_id})

  def delete_failed, do: Process.delete(@failed)

  # Returns the distinct ID of the last request of this process that failed, if it has this request ID.
  def failed(request_id) do
    case Process.get(@failed) do
      {^request_id, distinct_id} when request_id != nil -> distinct_id
      _ -> nil
    end
  end

  # Returns the context of the request that this process still serves. Telemetry reports an exit or a throw with the conn
  # as it was before all plugs.
  def unanswered do
    with %{properties: %{request_id: id}} = context when id != nil <- Context.get(),
         ^id <- Logger.metadata()[:request_id],
         do: context,
         else: (_ -> nil)
  end
end
