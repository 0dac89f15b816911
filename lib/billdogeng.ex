defmodule BilldogEng do
  @moduledoc """
  Defines a client as a module of the app, or starts one as a struct.

  ## A module

      defmodule MyApp.Analytics do
        use BilldogEng, otp_app: :my_app
      end

  The module has all functions of `BilldogEng.Analytics`, without their first argument. It is a child of a supervisor:

      children = [MyApp.Analytics, MyAppWeb.Endpoint]

      MyApp.Analytics.capture("user-1", "signed_up", %{plan: "pro"})

  Its options are those of `BilldogEng.Analytics.start_link/1` except `:name`: the client is registered under the
  module's name. The client reads them from the app's configuration when it starts:

      config :my_app, MyApp.Analytics, api_key: "…", flush_at: 50

  Options in the child spec (`{MyApp.Analytics, flush_at: 1}`) override this configuration, which overrides
  `config :billdogeng, …`, the defaults of all clients.

  The module can also define functions for the app's events:

      def order_completed(order), do: capture(order.user_id, "order_completed", %{revenue: order.total})

  ## A struct

  `new/2` returns a client that code can pass as an argument:

      {:ok, client} = BilldogEng.new("key")
      BilldogEng.capture(client, "user-1", "signed_up", %{plan: "pro"})

  The other functions are those of `BilldogEng.Analytics`. They accept the struct, a pid or a name.
  """

  alias BilldogEng.{Analytics, Error, Transport}
  alias BilldogEng.Client.{Options, Owner}

  @enforce_keys [:api_key, :transport, :analytics]
  defstruct [:api_key, :transport, :analytics, flags: nil]

  @type t :: %__MODULE__{
          api_key: String.t(),
          transport: Transport.config(),
          analytics: pid(),
          flags: nil
        }

  @doc group: "Start"
  @doc """
  Starts a client, linked to the caller. `opts` are the options of `BilldogEng.Analytics.start_link/1`.

  Returns `{:error, %BilldogEng.Error{}}` with the code `"INVALID_OPTION"` if the key is blank or not a string, or if an
  option does not accept its value.

      iex> {:ok, client} = BilldogEng.new("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.capture(client, "user-1", "signed_up")
      :ok

      iex> {:error, error} = BilldogEng.new("")
      iex> error.message
      "invalid value for :api_key: expected a string that is not blank"
  """
  @spec new(String.t(), keyword()) :: {:ok, t()} | {:error, Error.t()}
  def new(api_key, opts \\ [])

  def new(api_key, opts) when is_binary(api_key) do
    if String.trim(api_key) == "", do: no_key(), else: start(api_key, opts)
  end

  def new(_api_key, _opts), do: no_key()

  defp start(api_key, opts) do
    opts = opts |> Options.keywords!() |> Keyword.put(:api_key, api_key)

    with {:ok, options} <- Options.parse(opts),
         {:ok, pid} <- Owner.start_link({:ok, options}, options.name) do
      {:ok, %__MODULE__{api_key: options.native.api_key, transport: options.transport, analytics: pid}}
    else
      {:error, %Error{} = error} ->
        {:error, error}

      {:error, {:already_started, _}} ->
        invalid("invalid value for :name: expected a free name, got: #{inspect(opts[:name])}")

      {:error, other} ->
        {:error, Error.new(inspect(other), 0, "NOT_STARTED")}
    end
  rescue
    error in ArgumentError -> invalid(Exception.message(error))
  end

  @doc group: "Start"
  @doc """
  Starts a client like `new/2`. Returns the struct, or raises the `BilldogEng.Error`.

      iex> BilldogEng.new!("key", host: "http://127.0.0.1:9").api_key
      "key"
  """
  @spec new!(String.t(), keyword()) :: t()
  def new!(api_key, opts \\ []) do
    case new(api_key, opts) do
      {:ok, client} -> client
      {:error, error} -> raise error
    end
  end

  @doc false
  defmacro __using__(opts) do
    quote do
      use BilldogEng.Client.Using, unquote(opts)
    end
  end

  @doc group: "Start"
  @doc """
  Returns `BilldogEng.Analytics.child_spec/1`: `{BilldogEng, opts}` and `{BilldogEng.Analytics, opts}` start the same
  child.

      iex> BilldogEng.child_spec(name: MyApp.Analytics).start |> elem(0)
      BilldogEng.Analytics
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  defdelegate child_spec(opts), to: Analytics

  defp no_key, do: invalid("invalid value for :api_key: expected a string that is not blank")
  defp invalid(message), do: {:error, Error.new(message, 0, "INVALID_OPTION")}

  @doc group: "Captures"
  @doc """
  See `BilldogEng.Analytics.capture/6`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.capture(client, "user-1", "order_completed", %{revenue: 49.99})
      :ok
  """
  @spec capture(Analytics.server(), term(), term(), term(), term(), keyword()) :: :ok
  defdelegate capture(client, distinct_id, event, properties \\ %{}, groups \\ %{}, opts \\ []), to: Analytics

  @doc group: "Users and groups"
  @doc """
  See `BilldogEng.Analytics.identify/4`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.identify(client, "user-1", %{plan: "pro"})
      :ok
  """
  @spec identify(Analytics.server(), term(), term(), keyword()) :: :ok
  defdelegate identify(client, distinct_id, properties \\ %{}, opts \\ []), to: Analytics

  @doc group: "Users and groups"
  @doc """
  See `BilldogEng.Analytics.set_person_properties/3`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.set_person_properties(client, "user-1", set: %{plan: "pro"}, unset: [:trial])
      :ok
  """
  @spec set_person_properties(Analytics.server(), term(), term()) :: :ok
  defdelegate set_person_properties(client, distinct_id, operations), to: Analytics

  @doc group: "Users and groups"
  @doc """
  See `BilldogEng.Analytics.group_identify/4`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.group_identify(client, "company", "acme", %{seats: 12})
      :ok
  """
  @spec group_identify(Analytics.server(), term(), term(), term()) :: :ok
  defdelegate group_identify(client, group_type, group_key, properties \\ %{}), to: Analytics

  @doc group: "Users and groups"
  @doc """
  See `BilldogEng.Analytics.alias/3`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.alias(client, "user-1", "anonymous-7")
      :ok
  """
  @spec alias(Analytics.server(), term(), term()) :: :ok
  defdelegate alias(client, distinct_id, alias), to: Analytics

  @doc group: "Captures"
  @doc """
  See `BilldogEng.Analytics.capture_exception/5`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> try do
      ...>   raise "out of stock"
      ...> rescue
      ...>   error -> BilldogEng.capture_exception(client, "user-1", error, __STACKTRACE__)
      ...> end
      :ok
  """
  @spec capture_exception(Analytics.server(), term(), term(), Exception.stacktrace(), term()) :: :ok
  defdelegate capture_exception(client, distinct_id, exception, stacktrace, properties \\ %{}), to: Analytics

  @doc group: "Delivery"
  @doc """
  See `BilldogEng.Analytics.flush/2`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.flush(client)
      :ok
  """
  @spec flush(Analytics.server(), timeout: timeout()) :: :ok | {:error, Error.t()}
  defdelegate flush(client, opts \\ []), to: Analytics

  @typedoc """
  The result of `send_file/2`. `read = delivered + rejected + kept`, unless it is a dry run.

    * `:read` - lines that were read, without blank ones; in CSV records
    * `:sent` - events that were in a request
    * `:delivered` - events that the ingest accepted
    * `:rejected` - lines that are no event, and events that the ingest refused
    * `:kept` - lines that were read, and are neither delivered nor rejected
    * `:kept_from` - the number of the first of these lines, or `nil`
    * `:resumed` - of `:read`, the lines of earlier runs
    * `:seconds` - how long it took
    * `:rejected_file` - the file with the rejected lines, or `nil` if there are none
    * `:examples` - in a dry run, the first 20 malformed lines with their reasons
    * `:error` - why the run ended before the end of the file, or `nil`
  """
  @type file_summary :: %{
          read: non_neg_integer(),
          sent: non_neg_integer(),
          delivered: non_neg_integer(),
          rejected: non_neg_integer(),
          kept: non_neg_integer(),
          kept_from: pos_integer() | nil,
          resumed: non_neg_integer(),
          seconds: float(),
          rejected_file: Path.t() | nil,
          examples: [{pos_integer(), String.t()}],
          error: Error.t() | nil
        }

  @doc group: "Delivery"
  @doc """
  Sends the events of a file, and returns once all of them are delivered or rejected. `mix billdogeng.send` does the same
  in a shell.

  The file has one JSON object per line with `event`, `distinct_id`, and optionally `timestamp` (ISO 8601 or integer
  milliseconds), `properties` and `groups`. It can be compressed by gzip. `"-"` is standard input.

  Options, beside those of `BilldogEng.Analytics.start_link/1`, of which `:api_key` is required:

    * `:client` - a module with `use BilldogEng`. Its configuration is used
    * `:map` - the names that fields have in the file, as `[event: "name", distinct_id: "user.id"]`; a dot leads into an
      object
    * `:csv` - whether the file is CSV with a header (RFC 4180). Other columns than those of the fields are properties: a
      number, `true` or `false` where the cell is one in JSON, else a string; an empty cell is none
    * `:dry_run` - check every line, and send nothing
    * `:resume` - go on after the last line that an earlier run has settled
    * `:rate` - events per second, at most
    * `:retry_for` - ms to retry for without any success, before the run ends; 300,000 by default
    * `:progress` - a function that is called with the counters while the run goes on, at least ten times a second

  Lines that are no event, and events that the ingest refuses, go to the file `PATH.rejected`: a JSON object per line with
  `line`, `reason` and `content`. While a run has not come to the end, `PATH.resume` contains its state. A process that is killed
  at any time and resumed sends at most one batch twice. Each event gets an `$insert_id` that is derived from the file's
  name, the line's number and its text, so that an ingest can find duplicates. Hooks such as `:before_send` are not
  called.

  Returns `{:ok, summary}` if the run began, see `t:file_summary/0`, and `{:error, error}` if it could not begin.

      iex> path = Path.join(System.tmp_dir!(), "events-\#{System.unique_integer([:positive])}.ndjson")
      iex> lines = [~s({"event": "signed_up", "distinct_id": "user-1"}), ~s({"event": 7})]
      iex> File.write!(path, Enum.join(lines, "\\n"))
      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> {:ok, summary} = BilldogEng.send_file(path, api_key: "any", host: BilldogEng.Collector.url(collector))
      iex> {summary.delivered, summary.rejected}
      {1, 1}
      iex> File.read!(summary.rejected_file) =~ "event is not a string"
      true
  """
  @spec send_file(Path.t(), keyword()) :: {:ok, file_summary()} | {:error, Error.t()}
  defdelegate send_file(path, opts), to: BilldogEng.History.Run, as: :send

  @doc group: "State"
  @doc """
  See `BilldogEng.Analytics.queue_length/1`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.queue_length(client)
      0
  """
  @spec queue_length(Analytics.server()) :: non_neg_integer()
  defdelegate queue_length(client), to: Analytics

  @doc group: "Delivery"
  @doc """
  See `BilldogEng.Analytics.shutdown/1`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.shutdown(client)
      :ok
  """
  @spec shutdown(Analytics.server()) :: :ok | {:error, Error.t()}
  defdelegate shutdown(client), to: Analytics

  @doc group: "Delivery"
  @doc """
  See `BilldogEng.Analytics.purge/1`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.purge(client)
      :ok
  """
  @spec purge(Analytics.server()) :: :ok | {:error, Error.t()}
  defdelegate purge(client), to: Analytics

  @doc group: "Delivery"
  @doc """
  See `BilldogEng.Analytics.set_mode/2`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.set_mode(client, :disabled)
      :ok
  """
  @spec set_mode(Analytics.server(), :live | :disabled) :: :ok | {:error, Error.t()}
  defdelegate set_mode(client, mode), to: Analytics

  @doc group: "State"
  @doc """
  See `BilldogEng.Analytics.stats/1`.

      iex> client = BilldogEng.new!("key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.stats(client).captured
      0
  """
  @spec stats(Analytics.server()) :: Analytics.stats()
  defdelegate stats(client), to: Analytics

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(client, opts) do
      host = BilldogEng.Client.Address.shown(client.transport.host)
      concat(["#BilldogEng<", to_doc(client.analytics, opts), " ", host, ">"])
    end
  end
end
