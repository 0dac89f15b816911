defmodule BilldogEng.Terms.Budget.Tree do
  @moduledoc "A struct that nobody has written a protocol for."
  defstruct [:of]
end

defmodule BilldogEng.Terms.Budget.Encodable do
  @moduledoc "A struct whose encoder counts leaves, or shares parts of its iodata."
  defstruct [:of]

  defimpl Jason.Encoder do
    def encode(%{of: {:twice, levels}}, _opts),
      do: Enum.reduce(1..levels, "[1]", fn _, below -> [below, below] end)

    def encode(%{of: of}, _opts), do: of |> List.flatten() |> length() |> Integer.to_string()
  end
end

defmodule BilldogEng.Terms.Budget.Showy do
  @moduledoc "A struct whose `inspect/1` counts leaves."
  defstruct [:of]

  defimpl Inspect do
    def inspect(%{of: of}, _opts), do: of |> List.flatten() |> length() |> Integer.to_string()
  end
end

defmodule BilldogEng.Terms.Budget.Named do
  @moduledoc "A struct whose `to_string/1` counts leaves."
  defstruct [:of]

  defimpl String.Chars do
    def to_string(%{of: of}), do: of |> List.flatten() |> length() |> Integer.to_string()
  end
end

defmodule BilldogEng.Terms.Budget.Quoting do
  @moduledoc "An exception whose message prints all of a term."
  defexception [:term]
  def message(exception), do: "unexpected " <> inspect(exception.term, limit: :infinity)
end

defmodule BilldogEng.Terms.Budget.Selfish do
  @moduledoc "A struct whose encoder captures it."
  defstruct [:client]

  defimpl Jason.Encoder do
    def encode(struct, _opts) do
      BilldogEng.Analytics.capture(struct.client, "u", "inner", %{again: struct})
      "1"
    end
  end
end
