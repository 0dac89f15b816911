defprotocol Jason.Encoder do
  @moduledoc "Stands in for Jason's protocol, in tests: this library brings none."
  @fallback_to_any true
  def encode(value, opts)
end

defimpl Jason.Encoder, for: Any do
  def encode(value, _opts), do: raise(Protocol.UndefinedError, protocol: @protocol, value: value)
end

defmodule Jason do
  @moduledoc "Stands in for Jason, in tests."
  def encode_to_iodata!(value), do: Jason.Encoder.encode(value, [])
end

defmodule BilldogEng.Encoded do
  @moduledoc "A struct with an encoder of the app, which writes what `:as` selects."
  defstruct [:as, hidden: "s3cret"]

  defimpl Jason.Encoder do
    def encode(%{as: {:json, json}}, _opts), do: json
    def encode(%{as: :raise}, _opts), do: raise("s3cret")
    def encode(%{as: :throw}, _opts), do: throw(:s3cret)
    def encode(%{as: :exit}, _opts), do: exit(:s3cret)

    def encode(%{as: {:call, fun}}, _opts) do
      fun.()
      "1"
    end
  end
end

defmodule BilldogEng.Unshowable do
  @moduledoc "A struct that can't be inspected."
  defstruct hidden: "s3cret"

  defimpl Inspect do
    def inspect(_struct, _opts), do: raise("no")
  end
end

defmodule BilldogEng.Throwing do
  @moduledoc "A struct whose `inspect/1` throws."
  defstruct []

  defimpl Inspect do
    def inspect(_term, _opts), do: throw(:boom)
  end
end
