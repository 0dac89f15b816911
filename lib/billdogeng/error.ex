defmodule BilldogEng.Error do
  @moduledoc """
  Why a request or a flush failed.

    * `:message` - for people
    * `:status` - the HTTP status; `0` where no answer came (refused, reset, timed out, unknown host)
    * `:code` - for programs: the ingest's own code, `nil` where its response has none, or one of those below
    * `:body` - the response, decoded if it is JSON, else its text or `nil`; of one over 64 KiB the first 64 KiB as
      a string

  | code | status | |
  |---|---|---|
  | `"NETWORK_ERROR"` | 0 | no response: refused, reset, timed out, an unknown host, a certificate that isn't trusted |
  | `"MALFORMED_RESPONSE"` | 2xx | a response that isn't the ingest's, or says `"success": false` |
  | `"QUOTA_LIMITED"` | 200 | the project's quota is used up: nothing is stored, events are dropped |
  | `"TIMEOUT"` | 0 | `flush/2` waited for its `:timeout`; the flush goes on |
  | `"ENDED"` | 0 | the client has ended: what was left of its flush was not sent |
  | `"PURGED"` | 0 | the client was purged while its flush was under way |
  | `"SPOOL_ERROR"` | 0 | files of the spool can't be read or deleted for now; the message names the file |
  | `"INTERNAL_ERROR"` | 0 | the flush thread panicked; its events are kept |
  | `"INVALID_REQUEST"` | 0 | a path, a header or an option of `BilldogEng.Transport.request/2` that can't be sent |
  | `"INVALID_OPTION"` | 0 | an option of `BilldogEng.new/2` that can't be used |
  | `"NOT_STARTED"` | 0 | the client could not be started: the system has no thread or file descriptor left |
  | `"NOT_LIVE"` | 0 | `set_mode/2` of a client that was started with `mode: :disabled`, and has nothing to send with |
  | `"NOT_LOADED"` | 0 | the native library could not be loaded |

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
