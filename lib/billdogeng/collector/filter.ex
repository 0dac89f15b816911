defmodule BilldogEng.Collector.Filter do
  @moduledoc false
  # The filter of the page, as it is typed and kept in the address:
  #
  # | term | rows |
  # |---|---|
  # | `event:signed_up` | with this name |
  # | `id:user-1` | with this distinct ID |
  # | `status:503`, `status:4xx` | answered so |
  # | `is:problem`, `is:refused`, `is:duplicate`, `is:retry`, `is:update` | of this kind |
  # | `properties.plan:pro`, `properties.cart.size:2` | with this value; without a value, with this property |
  # | anything else | that contain this text, in any case |
  #
  # Terms are joined by "and"; `"…"` makes one term of several words: `event:"signed up"`.

  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.Feed.Text

  @kinds ~w(problem refused duplicate retry update)

  @type filter_term ::
          {:name | :id, String.t()}
          | {:status, String.t()}
          | {:is, String.t()}
          | {:property, [String.t()], String.t()}
          | {:text, String.t(), Regex.t()}

  @type t :: [filter_term]

  @doc """
  Returns the filter that a text means. Every text means one.

      iex> BilldogEng.Collector.Filter.parse(~s(event:"signed up" properties.plan:pro))
      [{:name, "signed up"}, {:property, ["plan"], "pro"}]
      iex> BilldogEng.Collector.Filter.parse("")
      []
  """
  @spec parse(String.t()) :: t
  def parse(text) do
    ~r/(?:[^\s"]*"[^"]*"?|[^\s"]+)+/u
    |> Regex.scan(text)
    |> Enum.map(fn [term] -> term(String.replace(term, "\"", "")) end)
    |> Enum.reject(&match?({:text, "", _}, &1))
  end

  defp term("event:" <> name) when name != "", do: {:name, Text.name(name)}
  defp term("id:" <> id) when id != "", do: {:id, Text.name(id)}
  defp term("status:" <> status) when status != "", do: {:status, status}
  defp term("is:" <> kind) when kind in @kinds, do: {:is, kind}

  defp term("properties." <> rest = text) do
    case String.split(rest, ":", parts: 2) do
      [path, value] when path != "" -> {:property, String.split(path, "."), value}
      _ -> text(text)
    end
  end

  defp term(text), do: text(text)

  # As it stands in JSON, where quotes and backslashes are escaped.
  defp text(text) do
    in_json = text |> String.replace("\\", "\\\\")
    {:text, text, Regex.compile!(Regex.escape(in_json), "iu")}
  end

  @doc "Returns whether a row of the feed passes the filter."
  @spec passes?(t, map) :: boolean
  def passes?(filter, row), do: Enum.all?(filter, &term?(&1, row))

  defp term?({:name, name}, row), do: row.name == name
  defp term?({:id, id}, row), do: row.id == id

  defp term?({:status, <<digit, "xx">>}, %{status: status}) when status != nil,
    do: div(status, 100) == digit - ?0

  defp term?({:status, status}, row), do: to_string(row.status || row.outcome) == status
  defp term?({:is, "problem"}, row), do: row.problems != []
  defp term?({:is, "refused"}, row), do: row.kind == :refused
  defp term?({:is, "update"}, row), do: row.kind == :update
  defp term?({:is, "duplicate"}, row), do: :duplicate in row.marks
  defp term?({:is, "retry"}, row), do: :retry in row.marks
  defp term?({:property, path, value}, row), do: property?(row, path, value)

  defp term?({:text, _, regex}, row),
    do: row.slice =~ regex or row.name =~ regex or (row.reason || "") =~ regex

  # Decoding takes microseconds; most rows are excluded by the search for the last key of the path.
  defp property?(%{kind: :event, slice: slice}, path, value) do
    with true <- :binary.match(slice, List.last(path)) != :nomatch,
         {:ok, %{"properties" => properties}} <- Native.json_decode(slice),
         {:ok, found} <- fetch(properties, path) do
      value == "" or same?(found, value)
    else
      _ -> false
    end
  end

  defp property?(_row, _path, _value), do: false

  @doc """
  Returns the value at a path of keys. A key that itself contains dots is found too.

      iex> BilldogEng.Collector.Filter.fetch(%{"cart" => %{"size" => 2}}, ["cart", "size"])
      {:ok, 2}
      iex> BilldogEng.Collector.Filter.fetch(%{"cart.size" => 3}, ["cart", "size"])
      {:ok, 3}
      iex> BilldogEng.Collector.Filter.fetch(%{}, ["cart"])
      :error
  """
  @spec fetch(term, [String.t()]) :: {:ok, term} | :error
  def fetch(value, []), do: {:ok, value}

  def fetch(map, [key | rest] = path) when is_map(map) do
    case map do
      %{^key => value} -> fetch(value, rest)
      _ -> Map.fetch(map, Enum.join(path, "."))
    end
  end

  def fetch(_value, _path), do: :error

  defp same?(text, value) when is_binary(text), do: text == value
  defp same?(other, value), do: Text.short(other) == value
end
