defmodule BilldogEng.Transport do
  @moduledoc """
  Makes single requests to the API, with the retries of a flush.

      config = BilldogEng.Transport.config(host: "http://127.0.0.1:4000", request_timeout: 5_000, gzip: true, max_retries: 3)
      {:ok, data} = BilldogEng.Transport.request(config, path: "/ingest-events", body: %{api_key: "k", events: []})

  A client uses this module only for its options. Its flush thread sends the batches.
  """

  alias BilldogEng.Error
  alias BilldogEng.Client.{Native, Options}
  alias BilldogEng.Client.Options.Schema
  alias BilldogEng.Terms.Normaliser

  @largest_body 16 * 1024 * 1024

  @required [:host, :request_timeout, :gzip, :max_retries]

  @type config :: %{
          required(:host) => String.t(),
          required(:request_timeout) => timeout(),
          required(:gzip) => boolean(),
          required(:max_retries) => non_neg_integer() | :infinity,
          required(:enable_logging) => boolean(),
          required(:sleep_fn) => (non_neg_integer() -> any()),
          optional(:proxy) => nil | String.t() | :environment,
          optional(:cacertfile) => nil | Path.t()
        }

  @doc group: "Requests"
  @doc """
  Checks the options, and adds the defaults of the missing ones.

  The options are those under "Requests" in `BilldogEng.Analytics.start_link/1`, and `:enable_logging`. `:host`,
  `:request_timeout`, `:gzip` and `:max_retries` have no default here. Others are ignored.

  Raises `KeyError` if one of the four is missing, and `ArgumentError` for a value that an option does not accept.

      iex> BilldogEng.Transport.config(host: "http://h", request_timeout: 1, gzip: true, max_retries: 0).enable_logging
      false
  """
  @spec config(keyword()) :: config()
  def config(opts) do
    config =
      Schema.defaults()
      |> Map.take([:enable_logging, :sleep_fn])
      |> Map.merge(opts |> Keyword.take([:enable_logging, :sleep_fn, :proxy, :cacertfile]) |> Map.new())
      |> Map.merge(Map.new(@required, &{&1, Keyword.fetch!(opts, &1)}))

    Options.check_transport(config)
    config
  end

  @doc group: "Requests"
  @doc """
  Makes a request and waits for its response. Retries after 1, 2, 4 … s on network errors, 408, 429 and 5xx.

  Options:

    * `:path` - the path, appended to the host. Default: `""`
    * `:body` - any term, sent as JSON by POST, of at most 16 MiB. Default: `nil`, which makes a GET
    * `:headers` - the headers as `[{name, value}]`. Default: `[]`
    * `:gzip` - overrides the `:gzip` of `config`

  Returns `{:ok, data}` or `{:error, %BilldogEng.Error{}}`. Of a response `{"success": true, "data": …}`, `data` is its
  data, otherwise the whole response. JSON objects are maps with string keys.

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> url = BilldogEng.Collector.url(collector)
      iex> config = BilldogEng.Transport.config(host: url, request_timeout: 5_000, gzip: true, max_retries: 0)
      iex> {:error, error} = BilldogEng.Transport.request(config, path: "/nowhere")
      iex> error.status
      404
  """
  @spec request(config(), keyword()) :: {:ok, term()} | {:error, Error.t()}
  def request(config, opts) do
    with {:ok, data, _status, _quota_limited} <- exchange(config, opts), do: {:ok, data}
  end

  @doc false
  # Like `request/2`, but returns `{:ok, data, status, quota_limited}`.
  def exchange(config, opts) do
    http = Map.put(Options.native_transport(config), :gzip, Keyword.get(opts, :gzip, config.gzip) == true)
    headers = for {name, value} <- Keyword.get(opts, :headers, []), do: {to_string(name), to_string(value)}
    request = {http, Keyword.get(opts, :path, ""), headers, Keyword.get(opts, :body)}
    attempt(request, config, 1)
  end

  defp attempt({http, path, headers, body} = request, config, number) do
    id = :erlang.unique_integer([:positive])

    case send_request(http, path, headers, body, id) do
      :ok ->
        receive do
          {:billdogeng_response, ^id, {:ok, _data, _status, _limited} = response} -> response
          {:billdogeng_response, ^id, {:error, error, retry}} -> failed(request, config, number, error, retry)
        end

      {:error, message} ->
        {:error, Error.new(message, 0, "INVALID_REQUEST")}
    end
  end

  defp send_request(http, path, headers, body, id) do
    with :normalise <- native_request(http, path, headers, body, nil, id) do
      marker = make_ref()
      native_request(http, path, headers, Normaliser.run(body, marker, @largest_body), marker, id)
    end
  catch
    {Normaliser, :too_large} -> {:error, "the body is too large: send less than #{@largest_body} bytes"}
  end

  # An exception would contain the arguments, and with them the key.
  defp native_request(http, path, headers, body, marker, id) do
    Native.request(http, path, headers, body, marker, id)
  rescue
    _ ->
      {:error, Native.load_error() || "the native library does not accept the value of an option or a header"}
  end

  defp failed(request, config, number, _error, true) when number <= :erlang.map_get(:max_retries, config) do
    sleep(config[:sleep_fn] || (&Process.sleep/1), min(Integer.pow(2, min(number, 6) - 1) * 1_000, 30_000))
    attempt(request, config, number + 1)
  end

  defp failed(_request, _config, _number, error, _retry), do: {:error, Error.from_native(error)}

  # A function of the app receives the delay without jitter.
  defp sleep(sleep_fn, ms) do
    if sleep_fn == (&Process.sleep/1),
      do: Process.sleep(round(ms * (0.8 + 0.4 * :rand.uniform()))),
      else: sleep_fn.(ms)
  end
end
