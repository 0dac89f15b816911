defmodule BilldogEng.Client.Options.Effects do
  @moduledoc false
  # Options that accept any term, as the original did. A term that one was not made for has an effect all the same,
  # which a warning names.

  alias BilldogEng.Client.Options
  alias BilldogEng.Log.Warning

  @doc false
  def warn({:flush_at, value}) do
    unless limit?(value) do
      effect(
        :flush_at,
        value,
        "a number of events or :infinity",
        ":infinity: no number of events makes a flush due"
      )
    end
  end

  def warn({:max_queue_size, value}) do
    unless limit?(value) do
      effect(
        :max_queue_size,
        value,
        "a number of events or :infinity",
        ":infinity: only :max_queue_bytes is a bound"
      )
    end
  end

  def warn({:enable_logging, value}) do
    unless value in [true, false, nil], do: effect(:enable_logging, value, "true or false", "false")
  end

  def warn({:group_type_index, value}) do
    numbers? = is_map(value) and not is_struct(value) and Enum.all?(value, &(elem(&1, 1) in 0..4))

    unless value == nil or numbers? do
      effect(
        :group_type_index,
        value,
        "a map of group types to numbers from 0 to 4",
        "no number for what is none"
      )
    end
  end

  def warn(_checked), do: :ok

  defp limit?(value), do: is_number(value) or value in [:infinity, nil]

  defp effect(option, value, expected, effect) do
    Warning.log(
      "invalid value for #{inspect(option)}: expected #{expected}, got: #{Options.shown(value)}; it has the effect of #{effect}"
    )
  end
end
