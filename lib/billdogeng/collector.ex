defmodule BilldogEng.Collector do
  @moduledoc """
  An ingest on this machine, for development and for tests: it accepts, checks and keeps events,
  answers as the real ingest does, and can be told to fail.

      {:ok, collector} = BilldogEng.Collector.start_link(print: true)

      {:ok, client} =
        BilldogEng.Analytics.start_link(api_key: "any", host: BilldogEng.Collector.url(collector))

      BilldogEng.Analytics.capture(client, "user-1", "signed_up", %{plan: "pro"})
      BilldogEng.Analytics.flush(client)
      BilldogEng.Collector.events(collector)

  It takes `POST /ingest-events` and `POST /user-properties` over HTTP/1.1, gzipped or not, and
  listens on loopback unless told otherwise. There is no TLS.

  ## Invalid events

  The real ingest refuses an event whose name is not a string or empty, whose ID is nil or empty, or whose properties
  are not a map. The collector accepts such an event, so that you see it, and marks it: `invalid_events/1` returns it
  with the reasons, `totals/1` counts it, and its printed line says so:

      "" user-1 [invalid: event_name is empty] %{"plan" => "pro"}

  A test that must not send any asserts `BilldogEng.Collector.invalid_events(collector) == []`.

  ## Failing on purpose

  `respond/2` takes a mode (`t:mode/0`) that holds until the next call:

  | mode | what a request meets |
  |---|---|
  | `:ok` | the ingest: it checks, keeps the events, answers |
  | `{:status, status}`, `{:status, status, headers}`, `{:status, status, headers, body}` | that answer; without a body, one in the ingest's envelope |
  | `{:json, status, body}` | that answer |
  | `{:delay, ms}`, `{:delay, ms, mode}` | `mode` (`:ok`) at once, its answer `ms` later |
  | `:hang` | no answer, ever |
  | `:reset` | the connection reset once the request is read |
  | `:refuse` | no listener, and open connections closed; the next mode listens again on the same port |
  | `{:gate, pid}` | `pid` gets `{:collector_request, handle, request}`; the answer waits for `release/2` |
  | `{:sequence, modes}`, or a list | one mode a request, the last one stays |
  | a function of the request | the mode that it returns, for each request |

  A function runs in the connection's process, so requests of several connections call it at the same time. If it
  raises, throws, exits or returns no mode, the request is answered with 500 and one error is logged.

  Only `:ok` keeps events and tells subscribers. `requests/1` has every request, whatever it met.
  """

  alias BilldogEng.Collector.{Connection, Mode, Options, Server}

  @typedoc "A running collector."
  @type t :: GenServer.server()

  @typedoc "How requests are answered; see the table above."
  @type mode ::
          :ok
          | {:status, 100..599}
          | {:status, 100..599, [{String.t(), String.t()}]}
          | {:status, 100..599, [{String.t(), String.t()}], binary}
          | {:json, 100..599, binary}
          | {:delay, non_neg_integer}
          | {:delay, non_neg_integer, mode}
          | :hang
          | :reset
          | :refuse
          | {:gate, pid}
          | {:sequence, [mode, ...]}
          | [mode, ...]
          | (request -> mode)

  @typedoc """
  A request: `headers` with lowercase names, `body` after gzip was taken off, `wire_bytes` and
  `bytes` its length before and after that, `events` how many events it held, `status` what it was
  answered with (nil as long as it wasn't).
  """
  @type request :: %{
          method: String.t(),
          path: String.t(),
          headers: [{String.t(), String.t()}],
          body: binary,
          wire_bytes: non_neg_integer,
          bytes: non_neg_integer,
          events: non_neg_integer,
          status: nil | pos_integer
        }

  @typedoc "A request that waits at a gate."
  @opaque handle :: {pid, reference}

  @doc """
  Starts a collector, linked to the caller, with which it ends.

  Options:

    * `:port` - the port, `0` (the default) for a free one
    * `:ip` - the address to listen on, `{127, 0, 0, 1}`
    * `:api_key` - the one key to take (others get 401), or `nil` (the default) for any
    * `:print` - true prints one line for each event and for each refused request, false is the default
    * `:keep` - false counts events and requests and keeps neither, for floods; true is the default
    * `:idle_timeout` - ms after which a connection without a request is closed, 60,000
    * `:read_timeout` - ms from the first byte of a request to its last, 30,000; a slower one is answered 408
    * `:name` - a name, as `GenServer` takes it

  If it cannot listen, it returns `{:error, {reason, message}}`, for example
  `{:error, {:eaddrinuse, "cannot listen on 127.0.0.1:4632: address already in use"}}`.

  The request line and the headers may have 64 KiB (else 431), a body 16 MiB, also after gzip (else 413).

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link(api_key: "key")
      iex> BilldogEng.Collector.count(collector)
      0

  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    Options.check!(opts)
    {name, opts} = Keyword.split(opts, [:name])
    GenServer.start_link(Server, opts, name)
  end

  @doc false
  # Of `mix billdogeng.collector`. IANA has assigned it to nobody, and it is below the ports that systems lend.
  def default_port, do: 4632

  @doc """
  The child spec; its `id` is the `:name` where there is one.

  ## Examples

      iex> BilldogEng.Collector.child_spec(name: MyApp.Collector).id
      MyApp.Collector

  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: Keyword.get(opts, :name, __MODULE__), start: {__MODULE__, :start_link, [opts]}}
  end

  @doc """
  The port it listens on.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.port(collector) > 0
      true

  """
  @spec port(t) :: :inet.port_number()
  def port(collector), do: GenServer.call(collector, :port)

  @doc """
  The URL to give a client as `:host`.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.url(collector) == "http://127.0.0.1:\#{BilldogEng.Collector.port(collector)}"
      true

  """
  @spec url(t) :: String.t()
  def url(collector), do: GenServer.call(collector, :url)

  @doc """
  The events accepted, in the order in which they arrived, as they were on the wire.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.events(collector)
      []

  """
  @spec events(t) :: [map]
  def events(collector), do: GenServer.call(collector, :events, :infinity)

  @doc """
  Returns the accepted events that the real ingest refuses, each with its reasons, in the order in which they arrived.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> url = BilldogEng.Collector.url(collector)
      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: url)
      iex> BilldogEng.Analytics.capture(client, nil, "signed_up", %{plan: "pro"})
      iex> BilldogEng.Analytics.flush(client)
      iex> [{%{"event_name" => "signed_up"}, reasons}] = BilldogEng.Collector.invalid_events(collector)
      iex> reasons
      ["user_id is nil"]

  """
  @spec invalid_events(t) :: [{map, [String.t(), ...]}]
  def invalid_events(collector), do: GenServer.call(collector, :invalid_events, :infinity)

  @doc """
  How many events it accepted.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.count(collector)
      0

  """
  @spec count(t) :: non_neg_integer
  def count(collector), do: totals(collector).events

  @doc """
  The requests read, in the order in which they arrived.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.requests(collector)
      []

  """
  @spec requests(t) :: [request]
  def requests(collector), do: GenServer.call(collector, :requests, :infinity)

  @doc """
  How many requests it read.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.request_count(collector)
      0

  """
  @spec request_count(t) :: non_neg_integer
  def request_count(collector), do: totals(collector).requests

  @doc """
  Sums over all requests, with `keep: false` too: `events` accepted, `invalid` ones among them, `requests` read,
  `accepted` requests among them, their bodies' `wire_bytes` as sent and `bytes` after gzip was taken off.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link(keep: false)
      iex> BilldogEng.Collector.totals(collector)
      %{accepted: 0, bytes: 0, events: 0, invalid: 0, requests: 0, wire_bytes: 0}

  """
  @spec totals(t) :: %{
          events: non_neg_integer,
          invalid: non_neg_integer,
          requests: non_neg_integer,
          accepted: non_neg_integer,
          wire_bytes: non_neg_integer,
          bytes: non_neg_integer
        }
  def totals(collector), do: GenServer.call(collector, :totals, :infinity)

  @doc """
  Forgets events, requests and counts. The mode and the subscribers stay.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.reset(collector)
      :ok

  """
  @spec reset(t) :: :ok
  def reset(collector), do: GenServer.call(collector, :reset, :infinity)

  @doc """
  Tells it how to answer from now on. Requests that hang or wait at a gate stay there.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.respond(collector, {:status, 429, [{"retry-after", "2"}]})
      :ok
      iex> BilldogEng.Collector.respond(collector, [{:status, 503}, :reset, :ok])
      :ok

  """
  @spec respond(t, mode) :: :ok
  def respond(collector, mode) do
    with {:error, message} <- GenServer.call(collector, {:respond, checked(mode)}, :infinity),
         do: raise(message)
  end

  @doc """
  Lets a request that waits at a gate go on, with the mode given. Returns once that has been acted
  on: with `:ok`, the events are kept. Harmless where the request is gone.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.respond(collector, {:gate, self()})
      iex> url = BilldogEng.Collector.url(collector)
      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: url, flush_at: 1)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> receive do
      ...>   {:collector_request, handle, %{events: 1}} -> BilldogEng.Collector.release(handle, {:status, 503})
      ...> end
      :ok

  """
  @spec release(handle, mode) :: :ok
  def release(handle, mode \\ :ok), do: Connection.release(handle, checked(mode))

  @doc """
  From now on `pid` gets `{:collector, events}` for each batch accepted.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.subscribe(collector)
      :ok

  """
  @spec subscribe(t, pid) :: :ok
  def subscribe(collector, pid \\ self()) when is_pid(pid), do: GenServer.call(collector, {:subscribe, pid})

  # By the caller, so that a wrong mode is its error.
  defp checked(mode) do
    case Mode.check(mode) do
      {:ok, mode} -> mode
      {:error, reason} -> raise ArgumentError, "BilldogEng.Collector.respond/2 was given #{reason}"
    end
  end
end
