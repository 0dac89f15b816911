defmodule BilldogEng.Collector.Fault do
  @moduledoc false
  # The faults that the page offers, as modes of `BilldogEng.Collector.respond/2`: pure functions.

  # {kind, its parameter: {label, default, most}, or nil}
  @kinds [
    {"down", nil},
    {"503", nil},
    {"slow", {"ms", 2_000, 600_000}},
    {"429", {"Retry-After, s", 5, 86_400}},
    {"413", {"above KB", 64, 16_384}},
    {"400", {"event name", "order_completed", 200}},
    {"quota", nil},
    {"hang", nil},
    {"reset", nil}
  ]

  @most_times 1_000_000

  @doc "Returns each kind with its parameter: `{kind, nil | {label, default, most}}`."
  @spec kinds() :: [{String.t(), nil | {String.t(), term, pos_integer}}]
  def kinds, do: @kinds

  @doc """
  Returns the mode of a fault. `times` is for how many requests it holds, or nil until it is switched off.

      iex> BilldogEng.Collector.Fault.mode("429", 7, nil)
      {:ok, {:status, 429, [{"retry-after", "7"}]}}
      iex> BilldogEng.Collector.Fault.mode("503", nil, 3)
      {:ok, {:times, 3, {:status, 503}}}
      iex> BilldogEng.Collector.Fault.mode("off", nil, nil)
      {:ok, :ok}
      iex> BilldogEng.Collector.Fault.mode("slow", "long", nil)
      {:error, "the fault slow takes ms as an integer from 0 to 600000"}
  """
  @spec mode(term, term, term) :: {:ok, BilldogEng.Collector.mode()} | {:error, String.t()}
  def mode("off", _value, _times), do: {:ok, :ok}

  def mode("down", _value, times) when times != nil,
    do: {:error, "the fault down holds until it is switched off: a closed socket counts no requests"}

  def mode(kind, value, times) do
    with {:ok, parameter} <- kind(kind),
         {:ok, value} <- value(kind, parameter, value),
         :ok <- times(times) do
      mode = build(kind, value)
      {:ok, if(times, do: {:times, times, mode}, else: mode)}
    end
  end

  defp kind(kind) do
    case List.keyfind(@kinds, kind, 0) do
      {_, parameter} -> {:ok, parameter}
      nil -> {:error, "there is no such fault, one of: off, " <> Enum.map_join(@kinds, ", ", &elem(&1, 0))}
    end
  end

  defp value(_kind, nil, _value), do: {:ok, nil}
  defp value(_kind, {_, default, _}, nil), do: {:ok, default}

  defp value(_kind, {_, default, most}, value)
       when is_integer(default) and is_integer(value) and value >= 0 and value <= most,
       do: {:ok, value}

  defp value(_kind, {_, default, most}, value)
       when is_binary(default) and is_binary(value) and value != "" and byte_size(value) <= most,
       do: {:ok, value}

  defp value(kind, {label, default, most}, _value) when is_integer(default),
    do: {:error, "the fault #{kind} takes #{label} as an integer from 0 to #{most}"}

  defp value(kind, {label, _, most}, _value),
    do: {:error, "the fault #{kind} takes an #{label} of 1 to #{most} bytes"}

  defp times(nil), do: :ok
  defp times(times) when times in 1..@most_times, do: :ok
  defp times(_), do: {:error, "times is the number of requests, from 1 to #{@most_times}, or null"}

  defp build("down", _), do: :refuse
  defp build("503", _), do: {:status, 503}
  defp build("slow", ms), do: {:delay, ms, :ok}
  defp build("429", s), do: {:status, 429, [{"retry-after", Integer.to_string(s)}]}
  defp build("413", kb), do: {:too_large, kb * 1024}
  defp build("400", name), do: {:reject, name}
  defp build("quota", _), do: :quota
  defp build(kind, _) when kind in ["hang", "reset"], do: String.to_existing_atom(kind)

  @doc """
  Describes a mode in words, or returns nil for `:ok`.

      iex> BilldogEng.Collector.Fault.describe({:times, 3, {:status, 503}})
      "the next 3 requests are answered with 503"
      iex> BilldogEng.Collector.Fault.describe(:refuse)
      "the ingest is down: its socket is closed"
      iex> BilldogEng.Collector.Fault.describe(:ok)
      nil
  """
  @spec describe(BilldogEng.Collector.mode()) :: nil | String.t()
  def describe(:ok), do: nil
  def describe(:refuse), do: "the ingest is down: its socket is closed"
  def describe({:times, 1, mode}), do: "the next request " <> verb(mode, "is", "s")
  def describe({:times, n, mode}), do: "the next #{n} requests " <> verb(mode, "are", "")
  def describe({:sequence, modes}), do: "the next #{length(modes)} requests follow a sequence of respond/2"
  def describe(mode), do: "requests " <> verb(mode, "are", "")

  defp verb({:times, _, mode}, be, s), do: verb(mode, be, s)
  defp verb({:sequence, _}, be, _), do: be <> " answered by a sequence of respond/2"

  defp verb({:status, 429, [{"retry-after", after_s}]}, be, _),
    do: be <> " answered with 429, Retry-After #{after_s} s"

  defp verb({:json, status, _}, be, _), do: be <> " answered with #{status}"
  defp verb({:delay, ms, :ok}, be, _), do: be <> " answered after #{ms} ms"
  defp verb({:delay, ms, mode}, be, s), do: verb(mode, be, s) <> " after #{ms} ms"
  defp verb({:too_large, bytes}, be, _), do: be <> " answered with 413 above #{div(bytes, 1024)} KB"
  defp verb({:reject, name}, be, _), do: be <> " answered with 400 if they contain #{inspect(name)}"
  defp verb(:quota, be, _), do: be <> " answered with 200, but over quota: no event is stored"
  defp verb(:hang, be, _), do: be <> " never answered"
  defp verb(:reset, be, _), do: be <> " ended by a reset of the connection"
  defp verb(:refuse, _, s), do: "find#{s} the socket closed"
  defp verb({:gate, _}, _, s), do: "wait#{s} at a gate of respond/2"
  defp verb(:ok, be, _), do: be <> " answered as the ingest does"
  defp verb(choose, be, _) when is_function(choose), do: be <> " answered by a function given to respond/2"
  defp verb(status, be, _) when is_tuple(status), do: be <> " answered with #{elem(status, 1)}"
end
