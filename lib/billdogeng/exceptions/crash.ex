defmodule BilldogEng.Exceptions.Crash do
  @moduledoc false
  # Reads the crash of a log event. It has one of these forms:
  #
  #     Elixir 1.15 and later    `crash_reason` in the metadata, put there by Logger before handlers are asked;
  #                              web servers put it there on every Elixir
  #     Elixir 1.14              OTP's and Elixir's own reports, as they are
  #     a bare `spawn`           the emulator's line, by way of the process `logger`
  #
  # A crash that comes twice comes as `:terminating` by the behaviour that the process runs, then, from that
  # same process, as `:ended` by `:proc_lib`. A process of `:proc_lib` that runs no behaviour, or none yet, has
  # the second alone.

  alias BilldogEng.Exceptions
  alias BilldogEng.Exceptions.Stacktrace

  # `{phase, {kind, reason}, stacktrace}` or nil; the phase is `:terminating`, `:ended` or `:other`.
  # Nothing but what it ended with is taken out of the event: no state, no message, no metadata.
  def read(%{meta: %{crash_reason: {reason, stacktrace}} = meta}) when is_list(stacktrace) do
    crash(phase(meta), ended_with(reason, stacktrace))
  end

  def read(%{msg: {:report, %{label: {:proc_lib, :crash}, report: [info | _]}}}) when is_list(info) do
    case List.keyfind(info, :error_info, 0) do
      {_, {:throw, value, stacktrace}} -> crash(:ended, {{:throw, value}, stacktrace})
      {_, {:error, reason, stacktrace}} -> crash(:ended, error(reason, stacktrace))
      {_, {:exit, reason, stacktrace}} -> crash(:ended, ended_with(reason, stacktrace))
      _ -> nil
    end
  end

  def read(%{msg: {:report, %{label: {Task.Supervisor, :terminating}, report: %{reason: reason}}}}),
    do: crash(:terminating, ended_with(reason))

  # A manager outlives its handlers.
  def read(%{msg: {:report, %{label: {:gen_event, :terminate}, reason: reason}}}),
    do: crash(:other, ended_with(reason))

  def read(%{msg: {:report, %{label: {:gen_statem, :terminate}, reason: {_kind, reason, stacktrace}}}}),
    do: crash(:terminating, ended_with(reason, stacktrace))

  def read(%{msg: {:report, %{label: {_behaviour, :terminate}, reason: reason}}}),
    do: crash(:terminating, ended_with(reason))

  # Of the emulator, which reports errors and uncaught throws, but no exits.
  def read(%{meta: %{error_logger: %{emulator: true}}, msg: {_format, [_ | _] = arguments}}) do
    case List.last(arguments) do
      {reason, stacktrace} when is_list(stacktrace) -> crash(:other, error(reason, stacktrace))
      _ -> nil
    end
  end

  def read(_event), do: nil

  # Ends that are none.
  defp crash(_phase, {{:exit, reason}, _}) when reason in [:normal, :shutdown], do: nil
  defp crash(_phase, {{:exit, {:shutdown, _}}, _}), do: nil
  defp crash(phase, {ended_with, stacktrace}), do: {phase, ended_with, stacktrace}

  defp phase(%{domain: [:otp, :sasl | _]}), do: :ended
  defp phase(%{mfa: {:gen_event, _, _}}), do: :other
  defp phase(%{domain: [:otp | _]}), do: :terminating
  defp phase(_meta), do: :other

  # ── what a process ended with, where errors and exits look alike ──

  defp ended_with({:EXIT, reason}), do: ended_with(reason)

  defp ended_with({reason, stacktrace} = exit) do
    if Stacktrace.stacktrace?(stacktrace), do: ended_with(reason, stacktrace), else: {{:exit, exit}, []}
  end

  defp ended_with(reason), do: {{:exit, reason}, []}

  # As Elixir's own translation of these, which is all there is to go by where Logger has translated them: what
  # normalises to no particular exception was an exit.
  defp ended_with(reason, stacktrace) when is_exception(reason), do: error(reason, stacktrace)
  defp ended_with({:nocatch, _} = reason, stacktrace), do: error(reason, stacktrace)

  defp ended_with(reason, stacktrace) do
    case Exceptions.Event.normal(:error, reason, stacktrace) do
      {:error, %ErlangError{}} -> {{:exit, reason}, stacktrace}
      error -> {error, stacktrace}
    end
  end

  defp error(%ErlangError{original: {:nocatch, value}}, stacktrace),
    do: {{:throw, value}, stacktrace}

  defp error({:nocatch, value}, stacktrace), do: {{:throw, value}, stacktrace}
  defp error(reason, stacktrace), do: {Exceptions.Event.normal(:error, reason, stacktrace), stacktrace}
end
