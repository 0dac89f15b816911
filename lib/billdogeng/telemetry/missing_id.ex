defmodule BilldogEng.Telemetry.MissingId do
  @moduledoc false
  # Logs that a handler captured nothing because it found no distinct ID: once for each handler, telemetry event,
  # module (view, controller or channel) and reason. An anonymous visitor must not use up the line that names a
  # live_session without the hook.

  alias BilldogEng.Log.Writer

  # Skips requests without a route: they pass no pipeline, so they never have a user, and every browser sends some.
  def report(handler, event, metadata, source)
  def report(_handler, _event, %{reason: %{__struct__: Phoenix.Router.NoRouteError}}, _source), do: :ok

  # `source` is `:option` if the handler has its own :distinct_id, else the context that was found, or nil.
  def report(handler, event, metadata, source) do
    module = module(metadata)
    logged = {__MODULE__, handler.options.key, event, module, reason(source)}

    unless :persistent_term.get(logged, false) do
      :persistent_term.put(logged, true)
      Writer.write({:no_distinct_id, handler.id, event, module, cause(source, metadata)})
    end

    :ok
  end

  def forget(key) do
    for {{__MODULE__, ^key, _, _, _} = logged, true} <- :persistent_term.get(),
        do: :persistent_term.erase(logged)

    :ok
  end

  defp reason(:option), do: :option
  defp reason(nil), do: :no_context
  defp reason(_context), do: :anonymous

  defp module(%{socket: %{view: view}}), do: view
  defp module(%{socket: %{channel: channel}}), do: channel
  defp module(%{phoenix_live_view: {view, _, _, _}}), do: view
  defp module(%{plug: plug}) when is_atom(plug), do: plug
  defp module(%{conn: %{private: %{phoenix_controller: controller}}}), do: controller
  defp module(_metadata), do: nil

  defp cause(:option, _metadata), do: :option
  defp cause(nil, %{socket: %{channel: _}}), do: :channel
  defp cause(nil, %{socket: %{view: _}}), do: :view
  defp cause(nil, %{conn: _, kind: _}), do: :failed_request
  defp cause(nil, %{conn: _}), do: :request
  defp cause(nil, _metadata), do: :process
  defp cause(_context, _metadata), do: :anonymous
end
