defmodule BilldogEng.Telemetry.MissingId do
  @moduledoc false
  # Logs that a handler captured nothing since there is no distinct ID, once for each handler, telemetry event, view
  # (or controller, or channel) and reason: an anonymous visitor must not use up the line that names a live_session
  # without the hook.

  alias BilldogEng.Terms.ModuleName
  require Logger

  @doc false
  # An unknown route has no pipeline, and so no user: every browser asks for some.
  def report(handler, event, metadata, source)
  def report(_handler, _event, %{reason: %{__struct__: Phoenix.Router.NoRouteError}}, _source), do: :ok

  # `source` is `:option` where the handler has a :distinct_id of its own, else the context that was found.
  def report(handler, event, metadata, source) do
    subject = subject(metadata)
    told = {__MODULE__, handler.options.key, event, subject, reason(source)}

    unless :persistent_term.get(told, false) do
      :persistent_term.put(told, true)

      Logger.info(
        "[BilldogEng:analytics] the handler #{inspect(handler.id)} captured nothing for #{inspect(event)}" <>
          "#{within(subject)}: #{why(source, metadata)}; further events without a distinct ID are counted " <>
          "(BilldogEng.Telemetry.handlers/0)"
      )
    end

    :ok
  end

  @doc false
  def forget(key) do
    for {{__MODULE__, ^key, _, _, _} = told, true} <- :persistent_term.get(), do: :persistent_term.erase(told)
    :ok
  end

  defp reason(:option), do: :option
  defp reason(nil), do: :no_context
  defp reason(_context), do: :anonymous

  defp subject(%{socket: %{view: view}}), do: view
  defp subject(%{socket: %{channel: channel}}), do: channel
  defp subject(%{phoenix_live_view: {view, _, _, _}}), do: view
  defp subject(%{plug: plug}) when is_atom(plug), do: plug
  defp subject(%{conn: %{private: %{phoenix_controller: controller}}}), do: controller
  defp subject(_metadata), do: nil

  defp within(nil), do: ""
  defp within(module), do: " in #{ModuleName.shown(module)}"

  defp why(:option, _metadata), do: "its :distinct_id returned none"

  defp why(nil, %{socket: %{channel: _}}) do
    "the socket has no user. Assign current_scope, current_user or user_id in connect/3, or call " <>
      "BilldogEng.Context.put/1 in join/3"
  end

  defp why(nil, %{socket: %{view: _}}) do
    "BilldogEng.LiveView did not run. Add it to the on_mount of the view's live_session, after what finds the user"
  end

  defp why(nil, %{conn: _, kind: _}) do
    "BilldogEng.Plug did not run. The request failed before it, or the pipeline of the route lacks it"
  end

  defp why(nil, %{conn: _}) do
    "BilldogEng.Plug did not run. Add it to the pipeline of the route, after what finds the user"
  end

  defp why(nil, _metadata) do
    "the process has no context. BilldogEng.Plug, BilldogEng.LiveView, BilldogEng.Context.put/1 or the handler's " <>
      ":distinct_id gives one"
  end

  defp why(_context, _metadata) do
    "the visitor is anonymous: no current_scope.user or current_user was assigned before BilldogEng.Plug or " <>
      "BilldogEng.LiveView. BilldogEng.Visitor, or their :distinct_id, gives an ID to visitors without an account"
  end
end
