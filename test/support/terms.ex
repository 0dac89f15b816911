defmodule BilldogEng.Terms do
  @moduledoc "Random terms of every kind, and smaller ones of each."

  defmodule Plain do
    @moduledoc false
    defstruct [:a, :b]
  end

  defmodule Shy do
    @moduledoc false
    @derive {Inspect, only: [:shown]}
    defstruct [:shown, :hidden]
  end

  @doc "A term of about `size` parts, by the process's own `:rand`."
  def term(size) when size > 1 and is_integer(size) do
    case :rand.uniform(10) do
      n when n <= 4 -> scalar()
      n when n <= 6 -> Map.new(parts(size), &{key(), &1})
      7 -> parts(size)
      8 -> List.to_tuple(parts(size))
      9 -> Enum.map(parts(size), &{pick([:a, :b, :c, :d, nil, true, :ключ]), &1})
      10 -> compound(size)
    end
  end

  def term(_size), do: scalar()

  defp parts(size) do
    count = :rand.uniform(min(size, 8)) - 1
    for _ <- 1..count//1, do: term(div(size, max(count, 1)))
  end

  defp compound(size) do
    case :rand.uniform(6) do
      1 ->
        Enum.reduce(1..(95 + :rand.uniform(10)), term(2), fn _, inner ->
          pick([[inner], %{a: inner}, {inner}])
        end)

      2 ->
        [term(2) | scalar()]

      3 ->
        MapSet.new(parts(size))

      4 ->
        Map.new(1..40, &{pick([&1, "#{&1}", :"#{&1}", key()]), &1})

      5 ->
        %Plain{a: term(div(size, 2))}

      6 ->
        %Shy{shown: 1, hidden: term(div(size, 2))}
    end
  end

  @doc "A map key of any kind."
  def key do
    case :rand.uniform(10) do
      n when n <= 4 -> pick(["a", "b", "c", "ключ", "", "a\"b", "$groups", "1", "nil", "1.5"])
      n when n <= 7 -> pick([:a, :b, :"1", :ключ, nil, true, :"1.5", Plain])
      8 -> pick([1, -1, 10 ** 30, 1.5, 0])
      _ -> pick([~c"ab", {1, 2}, [1, [2]], ~D[2026-01-01], scalar()])
    end
  end

  defp scalar do
    case :rand.uniform(16) do
      1 ->
        pick([nil, true, false])

      2 ->
        pick([:ok, :Ünïcode, :ключ, Plain, :"", :"a\"b\\"])

      3 ->
        :rand.uniform(1_000) - 500

      4 ->
        pick([1, -1]) * :rand.uniform(10) ** :rand.uniform(60)

      5 ->
        pick([
          0,
          -0.0,
          0.0,
          1.0,
          1.0e21,
          1.0e-7,
          2.2250738585072014e-308,
          1.7976931348623157e308,
          2 ** 63,
          -(2 ** 63),
          2 ** 64
        ])

      6 ->
        float()

      n when n in 7..9 ->
        string()

      10 ->
        bytes(:rand.uniform(12))

      11 ->
        pick([<<1::3>>, <<255, 1::1>>])

      12 ->
        pick([self(), &is_atom/1, 1..3, 1..10//2, ~r/a/])

      13 ->
        pick([~D[2026-01-02], ~T[01:02:03.004], ~N[2026-01-02 03:04:05], ~U[2026-01-02 03:04:05.678Z]])

      14 ->
        pick([URI.parse("http://a/b?c"), Version.parse!("1.2.3-rc.1"), %ArgumentError{message: "m"}])

      15 ->
        pick([%{}, [], {}, ~c"", ~c"ab", [nil], [[]]])

      16 ->
        pick([%{__struct__: 5}, %{__struct__: "x", a: 1}, %{"__struct__" => 1}])
    end
  end

  defp bytes(count), do: for(_ <- 1..count, into: "", do: <<:rand.uniform(256) - 1>>)

  # No denormal ones: jiffy reads them as 0.
  defp float do
    <<float::float>> = <<:rand.uniform(2) - 1::1, :rand.uniform(2046)::11, :rand.uniform(2 ** 52) - 1::52>>
    float
  end

  defp string do
    for _ <- 1..(:rand.uniform(20) - 1)//1, into: "" do
      pick([
        "a",
        "Z",
        " ",
        "\"",
        "\\",
        "/",
        "\n",
        "\0",
        <<31>>,
        <<127>>,
        "é",
        "€",
        "😀",
        "\u2028",
        "<",
        <<0xC3>>,
        <<0xE2, 0x82>>
      ])
    end
  end

  defp pick(list), do: Enum.at(list, :rand.uniform(length(list)) - 1)

  @doc "Terms that are smaller than `term` and made of its parts."
  def smaller(term) when is_struct(term), do: [nil]

  def smaller(term) when is_map(term),
    do: Map.values(term) ++ for({key, _} <- term, do: Map.delete(term, key))

  def smaller(term) when is_tuple(term), do: term |> Tuple.to_list() |> smaller()

  def smaller([_ | _] = list) do
    if List.improper?(list),
      do: [],
      else: list ++ for(at <- 0..(length(list) - 1), do: List.delete_at(list, at))
  end

  def smaller(text) when is_binary(text) and byte_size(text) > 1,
    do: for(at <- 0..(byte_size(text) - 1), do: binary_part(text, at, 1))

  def smaller(_term), do: []
end
