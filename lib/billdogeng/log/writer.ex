defmodule BilldogEng.Log.Writer do
  @moduledoc false
  # The one place that calls Logger for the lines of `BilldogEng.Log.Lines`.

  alias BilldogEng.Log.Lines
  require Logger

  @doc false
  # Logs a notice's line; `client` is the name of the client that it is about, if it has one.
  def write(notice, client \\ nil) do
    {level, text} = Lines.line(notice, client)
    Logger.log(level, text)
  end

  @doc false
  # Logs the line once in the life of the VM for each `key`.
  def once(key, notice, client \\ nil) do
    unless :persistent_term.get({__MODULE__, key}, false) do
      :persistent_term.put({__MODULE__, key}, true)
      write(notice, client)
    end

    :ok
  end
end
