defmodule BilldogEng.Error do
  @moduledoc """
  Why a request or a flush failed.

    * `:message` - for people
    * `:status` - the HTTP status; `0` where no answer came (refused, reset, timed out, unknown host)
    * `:code` - for programs: the ingest's own code, or `"NETWORK_ERROR"`, `"MALFORMED_RESPONSE"`,
      `"TIMEOUT"`, `"SPOOL_ERROR"` (files of the spool can't be read or deleted for now); `nil` where the answer had none
    * `:body` - the answer, decoded where it was JSON, else its text or `nil`

      iex> error = BilldogEng.Error.new("HTTP 503", 503, nil, nil)
      iex> Exception.message(error)
      "HTTP 503"
  """

  defexception message: nil, status: 0, code: nil, body: nil

  @type t :: %__MODULE__{
          message: String.t(),
          status: non_neg_integer(),
          code: String.t() | nil,
          body: term()
        }

  @doc """
  Builds an error; see the module for its parts.

      iex> BilldogEng.Error.new("refused", 0, "NETWORK_ERROR").code
      "NETWORK_ERROR"
  """
  @spec new(String.t(), non_neg_integer(), String.t() | nil, term()) :: t()
  def new(message, status \\ 0, code \\ nil, body \\ nil) do
    %__MODULE__{message: message, status: status, code: code, body: body}
  end

  @doc false
  def from_native({message, status, code, body}), do: new(message, status, code, body)
end
