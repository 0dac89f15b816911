defmodule BilldogEng.Error do
  @moduledoc """
  An error of a request, a flush or a start.

    * `:message` - a text for people. A message of the ingest is as the ingest sent it: escape it before you show it
    * `:status` - the HTTP status; `0` if there was no response (refused, reset, timed out, unknown host)
    * `:code` - a string for programs: the ingest's own code, `nil` if its response has none, or a code of the list below
    * `:body` - the response: decoded if it is JSON, else its text or `nil`; the first 64 KiB as a string if it is longer

  The codes of this library, with their status:

    * `"NETWORK_ERROR"` (0) - there was no response: refused, reset, timed out, an unknown host, an untrusted certificate
    * `"MALFORMED_RESPONSE"` (2xx) - the response is not the ingest's, or has `"success": false`
    * `"QUOTA_LIMITED"` (200) - the project's quota is used up: the ingest stores nothing, and events are dropped
    * `"TIMEOUT"` (0) - `flush/2` returned after its `:timeout`; the flush continues
    * `"ENDED"` (0) - the client has ended before all events of the flush were sent
    * `"PURGED"` (0) - the client was purged during the flush
    * `"SPOOL_ERROR"` (0) - a file of the spool can't be read or deleted now; the message names it
    * `"FILE_ERROR"` (0) - a file of `BilldogEng.send_file/2` can't be read, or what belongs beside it can't be written
    * `"INTERNAL_ERROR"` (0) - the flush thread panicked and goes on; its events are still queued
    * `"INVALID_REQUEST"` (0) - a path, a header, a body or an option of `BilldogEng.Transport.request/2` is invalid
    * `"INVALID_OPTION"` (0) - a key or an option of `BilldogEng.new/2` is invalid
    * `"NOT_STARTED"` (0) - the client can't be started: the system has no thread or file descriptor left
    * `"NOT_LIVE"` (0) - `set_mode/2` can't make a client live that was started with `mode: :disabled` or without a key
    * `"NOT_LOADED"` (0) - the native library can't be loaded

  `Exception.message/1` returns the `:message`:

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

  @doc group: "Start"
  @doc """
  Returns an error; see the module for its fields.

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
