defmodule BilldogEng.Log.Warning do
  @moduledoc false
  # Warnings of `BilldogEng.Client.Options`, until it passes notices to `BilldogEng.Log.Writer` itself.

  require Logger

  @doc false
  def log(message), do: Logger.warning("[BilldogEng:analytics] " <> message)

  @doc false
  def once(key, message) do
    unless :persistent_term.get({__MODULE__, key}, false) do
      :persistent_term.put({__MODULE__, key}, true)
      log(message)
    end

    :ok
  end
end
