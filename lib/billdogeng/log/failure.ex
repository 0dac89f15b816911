defmodule BilldogEng.Log.Failure do
  @moduledoc false
  # How a function of the app failed, as a log line may show it: the exception's module and the place. Its message may
  # quote an event, and a frame of the stacktrace its arguments, so neither is part of it.

  alias BilldogEng.Exceptions.Stacktrace

  @doc false
  # Returns "raised ArgumentError in MyApp.scrub/1 (lib/my_app.ex:12)" or "ended by throw in …".
  def shown(kind, reason, stacktrace), do: how(kind, reason) <> place(stacktrace)

  defp how(:error, reason), do: "raised #{inspect(Exception.normalize(:error, reason, []).__struct__)}"
  defp how(kind, _reason), do: "ended by #{kind}"

  @doc false
  # Returns " in Module.function/arity (file:line)" of the first frame, or "".
  def place([{module, function, arity, location} | _]) do
    arity = if is_list(arity), do: length(arity), else: arity
    line = if location[:line], do: " (#{Stacktrace.file(location[:file])}:#{location[:line]})", else: ""
    " in #{Exception.format_mfa(module, function, arity)}#{line}"
  end

  def place(_stacktrace), do: ""
end
