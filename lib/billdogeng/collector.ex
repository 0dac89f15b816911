defmodule BilldogEng.Collector do
  @moduledoc """
  An ingest on this machine, for development and for tests. It accepts, checks and keeps events, answers like the
  real ingest, and fails on request.

      {:ok, collector} = BilldogEng.Collector.start_link(print: true)

      {:ok, client} =
        BilldogEng.Analytics.start_link(api_key: "any", host: BilldogEng.Collector.url(collector))

      BilldogEng.Analytics.capture(client, "user-1", "signed_up", %{plan: "pro"})
      BilldogEng.Analytics.flush(client)
      BilldogEng.Collector.events(collector)

  It accepts `POST /ingest-events` and `POST /user-properties` over HTTP/1.1, with or without gzip. It listens on loopback
  by default, and has no TLS. With the option `:page` it shows the events in a browser, as `mix billdogeng.collector` does.

  In a test, ExUnit ends it with the test:

      collector = start_supervised!(BilldogEng.Collector)

  ## Invalid events

  The real ingest refuses an event if its name is empty or not a string, if its ID is nil or empty, or if its
  properties are not a map. The collector accepts such an event, so that you see it, and marks it: `invalid_events/1`
  returns it with the reasons, `totals/1` counts it, and its printed line contains the reasons:

      "" user-1 [invalid: event_name is empty] %{"plan" => "pro"}

  To assert that a test sends no invalid event:

      assert BilldogEng.Collector.invalid_events(collector) == []

  ## Failing on request

  `respond/2` sets a mode (`t:mode/0`), which stays until the next call:

  | mode | effect on a request |
  |---|---|
  | `:ok` | Checks it, keeps its events and answers like the real ingest. This is the mode at the start |
  | `{:status, status}`, `{:status, status, headers}`, `{:status, status, headers, body}` | Answers with that status. The default body is the ingest's envelope |
  | `{:json, status, body}` | Answers with that status and body |
  | `{:delay, ms}`, `{:delay, ms, mode}` | Applies `mode` (default: `:ok`) at once and sends the answer `ms` later |
  | `:hang` | Never answers |
  | `:reset` | Resets the connection once the request is read |
  | `:refuse` | Closes the listener and all connections. The next mode listens on the same port again |
  | `{:too_large, bytes}` | Answers with 413 if the body has more bytes than this, decompressed; else as `:ok` |
  | `{:reject, name}` | Answers with 400 if the request contains an event of this name; else as `:ok` |
  | `:quota` | Answers with 200 and `quota_limited`, and stores nothing |
  | `{:times, n, mode}` | Applies `mode` to the next `n` requests, and `:ok` to those behind them |
  | `{:gate, pid}` | Sends `{:collector_request, handle, request}` to `pid` and waits for `release/2` |
  | `{:sequence, modes}`, or a list of modes | Uses one mode for each request; the last one stays |
  | a function | Calls it with the request (`t:request/0`) and uses the mode that it returns |

  Each connection calls the function in its own process, so several calls can run at the same time. If the function
  raises, throws, exits or returns no mode, the request is answered with 500 and one error is logged.

  Only `:ok` keeps events and notifies subscribers. `requests/1` returns every request, in all modes.

  ## Limits

  | limit | answer |
  |---|---|
  | 64 KiB of request line and headers | 431 |
  | 16 MiB of body, also after gzip | 413 |
  | 127 levels of nested JSON | 400 |
  | `:read_timeout` from the first byte of a request to its last | 408 |
  | `:idle_timeout` without a request | none, the connection is closed |

  A request over one of the first two limits or `:read_timeout` ends its connection and is not in `requests/1`.
  """

  alias BilldogEng.Collector.{Connection, Mode, Options, Server}

  @typedoc "A running collector."
  @type t :: GenServer.server()

  @typedoc "A mode of `respond/2`; see the table above."
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
          | {:too_large, non_neg_integer}
          | {:reject, String.t()}
          | :quota
          | {:times, pos_integer, mode}
          | {:gate, pid}
          | {:sequence, [mode, ...]}
          | [mode, ...]
          | (request -> mode)

  @typedoc """
  A request:

    * `headers` - with lowercase names
    * `body` - decompressed if it was sent with gzip; `wire_bytes` is its length as sent, `bytes` decompressed
    * `events` - the number of events in it
    * `status` - the status of the answer, nil before the answer
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

  @doc group: "Start"
  @doc """
  Starts a collector, linked to the caller.

  Options:

    * `:port` - the port to listen on. Default: `0`, a free one
    * `:ip` - the address to listen on, as a tuple. Default: `{127, 0, 0, 1}`
    * `:api_key` - the only key to accept; requests with another one are answered 401. Default: `nil`, any key
    * `:print` - whether to print one line for each event and for each refused request. Default: `false`
    * `:keep` - whether to keep events and requests; `false` only counts them. Default: `true`
    * `:idle_timeout` - milliseconds after which a connection without a request is closed. Default: `60_000`
    * `:read_timeout` - milliseconds from the first byte of a request to its last. Default: `30_000`
    * `:page` - whether to serve a web page that shows what arrives: `true` for a free port, a port, or a keyword list
      with any of these. Default: `false`
      * `:port` - the port of the page. Default: `0`, a free one
      * `:ip` - its address, as a tuple. Default: that of the collector
      * `:hosts` - names besides loopback by which browsers may reach the page. Default: `[]`
      * `:client` - a client in this VM, of which the page shows the counters. Default: `nil`
    * `:name` - a name, as `GenServer.start_link/3` accepts it

  Raises `ArgumentError` for an unknown option or a wrong value. Returns `{:error, {reason, message}}` if it cannot
  listen, for example `{:error, {:eaddrinuse, "cannot listen on 127.0.0.1:4632: address already in use"}}`, and
  `{:error, %BilldogEng.Error{code: "NOT_LOADED"}}` without the native library, which decodes JSON.

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
  # The ports of `mix billdogeng.collector`: no known service uses them, and they are below the ephemeral ports.
  def default_port, do: 4632

  @doc false
  def default_page_port, do: 4633

  @doc group: "Start"
  @doc """
  Returns a child spec. Its `id` is the `:name`, or `BilldogEng.Collector` without one.

  ## Examples

      iex> BilldogEng.Collector.child_spec(name: MyApp.Collector).id
      MyApp.Collector

  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: Keyword.get(opts, :name, __MODULE__), start: {__MODULE__, :start_link, [opts]}}
  end

  @doc group: "Start"
  @doc """
  Returns the port that the collector listens on.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.port(collector) > 0
      true

  """
  @spec port(t) :: :inet.port_number()
  def port(collector), do: GenServer.call(collector, :port)

  @doc group: "Start"
  @doc """
  Returns the URL of the collector, for a client's `:host`.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.url(collector) == "http://127.0.0.1:\#{BilldogEng.Collector.port(collector)}"
      true

  """
  @spec url(t) :: String.t()
  def url(collector), do: GenServer.call(collector, :url)

  @doc group: "Start"
  @doc """
  Returns the address of the page, or nil without the option `:page`.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link(page: true)
      iex> "http://127.0.0.1:" <> _port = BilldogEng.Collector.page_url(collector)

  """
  @spec page_url(t) :: nil | String.t()
  def page_url(collector), do: GenServer.call(collector, :page_url)

  @doc group: "Events"
  @doc """
  Returns the accepted events as they were sent, in the order in which they arrived.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.events(collector)
      []

  """
  @spec events(t) :: [map]
  def events(collector), do: GenServer.call(collector, :events, :infinity)

  @doc group: "Events"
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

  @doc group: "Events"
  @doc """
  Returns the number of accepted events.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.count(collector)
      0

  """
  @spec count(t) :: non_neg_integer
  def count(collector), do: totals(collector).events

  @doc group: "Requests"
  @doc """
  Returns the requests in the order in which they arrived.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.requests(collector)
      []

  """
  @spec requests(t) :: [request]
  def requests(collector), do: GenServer.call(collector, :requests, :infinity)

  @doc group: "Requests"
  @doc """
  Returns the number of requests.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.request_count(collector)
      0

  """
  @spec request_count(t) :: non_neg_integer
  def request_count(collector), do: totals(collector).requests

  @doc group: "Requests"
  @doc """
  Returns counters of all requests, also with `keep: false`:

    * `events` - accepted events; `invalid` - those of them that the real ingest refuses
    * `requests` - requests; `accepted` - those of them that were accepted
    * `wire_bytes` - bytes of the bodies as sent; `bytes` - decompressed

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

  @doc group: "Requests"
  @doc """
  Removes all events and requests, and sets the counters to 0. The mode and the subscribers stay.

  ## Examples

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> BilldogEng.Collector.reset(collector)
      :ok

  """
  @spec reset(t) :: :ok
  def reset(collector), do: GenServer.call(collector, :reset, :infinity)

  @doc group: "Responses"
  @doc """
  Sets the mode for further requests; see "Failing on request" above. Requests that hang or wait at a gate stay there.

  Raises `ArgumentError` for what is not a mode.

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

  @doc group: "Responses"
  @doc """
  Applies a mode to a request that waits at a gate, and returns after its effect: with `:ok`, the events are kept.
  Does nothing if the request's connection has ended.

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

  @doc group: "Requests"
  @doc """
  Sends `{:collector, events}` to `pid` for each batch that is accepted from now on.

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
