defmodule BilldogEng.Log.Warning do
  @moduledoc false
  # Warnings that are logged whatever `:enable_logging` says.

  require Logger

  @doc false
  def log(message), do: Logger.warning("[BilldogEng:analytics] " <> message)

  @doc false
  # Once in the life of the VM for each `key`.
  def once(key, message) do
    unless :persistent_term.get({__MODULE__, key}, false) do
      :persistent_term.put({__MODULE__, key}, true)
      log(message)
    end

    :ok
  end
end
