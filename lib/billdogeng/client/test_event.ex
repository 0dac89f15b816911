defmodule BilldogEng.Client.TestEvent do
  @moduledoc false
  # Sends one event by a client's host, proxy, TLS and key, and returns the probable cause if that fails. It is a request
  # of its own, so its status and its duration are known. It passes no queue, hook or spool of the app.

  alias BilldogEng.{Analytics, Transport}
  alias BilldogEng.Client.{Address, Native, Options, Roots, Stats}
  alias BilldogEng.Log.Diagnosis

  defstruct [:api_key, :transport]

  @name "billdogeng_test_event"
  @user "billdogeng-test"

  # Returns the test of a client's options. Raises `ArgumentError` for a wrong value, as a start does.
  def new(opts) do
    # Only a live client logs warnings and looks for certificates.
    {:ok, options} = opts |> Keyword.delete(:name) |> Keyword.put(:mode, :disabled) |> Options.parse()

    %__MODULE__{
      api_key: options.native.api_key,
      transport: %{options.transport | max_retries: 0}
    }
  end

  # Returns what is known before the event is sent, as `{label, text}`.
  def facts(%{transport: transport}) do
    [
      {"host", Address.shown(transport.host)},
      {"proxy", proxy(transport.proxy)},
      {"library", library()},
      {"TLS roots", Roots.describe(transport.host, transport.cacertfile)}
    ]
  end

  # Returns the state of the client of this name, if it runs in this VM, as `{label, text}`.
  def running(client) do
    [client] |> Module.safe_concat() |> Analytics.stats() |> Stats.explained()
  rescue
    # There is no such atom, so no such name.
    ArgumentError -> []
  catch
    :exit, _ -> []
  end

  defp proxy(nil), do: "none"
  defp proxy(:environment), do: "as the environment sets it"
  defp proxy(address), do: Address.shown(address)

  defp library do
    case Path.wildcard(Path.join(:code.priv_dir(:billdogeng), "native/billdogeng_nif.{so,dll}")) do
      [path | _] -> path
      [] -> "missing in #{:code.priv_dir(:billdogeng)}"
    end
  end

  # Returns `{:ok, status, ms}`, or `{:error, status | nil, ms | nil, cause, remedy}`. The key is in neither.
  def send(%{api_key: ""}) do
    {:error, nil, nil, ":api_key is missing or blank",
     ~s|set it in config/runtime.exs, such as config :my_app, MyApp.Analytics, api_key: System.fetch_env!("BILLDOG_API_KEY"), | <>
       "and check that the variable and MIX_ENV are set here; or use --api-key"}
  end

  def send(%{api_key: key, transport: transport} = test) do
    with nil <- Native.load_error() do
      began = System.monotonic_time()
      response = Transport.exchange(transport, path: "/ingest-events", headers: headers(key), body: body(key))
      ms = System.convert_time_unit(System.monotonic_time() - began, :native, :millisecond)
      result(response, ms, test)
    else
      reason ->
        {:error, nil, nil, "the native library can't be loaded: #{reason}", Native.load_remedy()}
    end
  end

  defp headers(key), do: [{"x-api-key", key}, {"x-billdog-api-key", key}]

  defp body(key) do
    event = %{
      event_name: @name,
      event_timestamp: Native.now_ms(),
      properties: %{sent_by: "mix billdogeng.send_test_event"},
      user_id: @user
    }

    %{api_key: key, events: [event]}
  end

  defp result({:ok, _data, status, false}, ms, _test), do: {:ok, status, ms}

  defp result({:ok, _data, status, true}, ms, _test) do
    {:error, status, ms, "the project's quota is used up: the ingest accepted the event and stored nothing",
     "raise the project's quota, or wait for its next period"}
  end

  # The key goes first: a message that is cut could show a part of it.
  defp result({:error, error}, ms, test) do
    error = %{error | message: Native.redact(error.message, test.api_key)}
    {cause, remedy} = Diagnosis.of(error, Diagnosis.route(test.transport))
    {:error, if(error.status > 0, do: error.status), ms, cause, remedy}
  end
end
