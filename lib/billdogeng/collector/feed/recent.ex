defmodule BilldogEng.Collector.Feed.Recent do
  @moduledoc false
  # A map that remembers at least its newest `size` keys and at most twice as many: two maps, of which the older one is
  # dropped when the newer one is full. Repeats of bodies and of `$insert_id` are found in it.

  defstruct [:size, new: %{}, old: %{}]

  @type t :: %__MODULE__{size: pos_integer, new: map, old: map}

  @doc """
  Returns an empty map of this size.

      iex> alias BilldogEng.Collector.Feed.Recent
      iex> recent = Enum.reduce(1..6, Recent.new(2), &Recent.put(&2, &1, true))
      iex> for key <- 1..6, do: Recent.get(recent, key)
      [nil, nil, true, true, true, true]
  """
  @spec new(pos_integer) :: t
  def new(size), do: %__MODULE__{size: size}

  @doc "Returns the value of a key, or nil."
  @spec get(t, term) :: term
  def get(recent, key) do
    case recent do
      %{new: %{^key => value}} -> value
      %{old: %{^key => value}} -> value
      _ -> nil
    end
  end

  @doc "Puts a value."
  @spec put(t, term, term) :: t
  def put(%{new: new, size: size} = recent, key, value)
      when map_size(new) >= size and not is_map_key(new, key),
      do: %{recent | old: new, new: %{key => value}}

  def put(recent, key, value), do: %{recent | new: Map.put(recent.new, key, value)}
end
