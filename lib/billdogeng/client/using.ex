defmodule BilldogEng.Client.Using do
  @moduledoc false
  # `use BilldogEng, otp_app: :my_app`: a client that is a module of the app. Each function there is one call
  # of `BilldogEng.Analytics` with the module as the client's name.

  alias BilldogEng.Analytics
  alias BilldogEng.Client.Options

  defmacro __using__(opts) do
    quote location: :keep do
      @billdogeng_otp_app BilldogEng.Client.Using.otp_app!(unquote(opts), __MODULE__)

      unquote(start())
      unquote(captures())
      unquote(calls())
    end
  end

  defp start do
    quote location: :keep do
      @doc false
      def __billdogeng__, do: @billdogeng_otp_app

      @doc "Returns the child spec of the client. `opts` override the app's configuration."
      @spec child_spec(keyword()) :: Supervisor.child_spec()
      def child_spec(opts) do
        %{id: __MODULE__, start: {__MODULE__, :start_link, [BilldogEng.Client.Options.hide(opts)]}}
      end

      @doc "Starts the client, linked to the caller. `opts` override the app's configuration."
      @spec start_link(keyword()) :: GenServer.on_start()
      def start_link(opts \\ []),
        do: BilldogEng.Client.Using.start_link(@billdogeng_otp_app, __MODULE__, opts)

      defoverridable child_spec: 1, start_link: 0, start_link: 1
    end
  end

  defp captures do
    quote location: :keep do
      @doc "See `BilldogEng.Analytics.capture/6`."
      @spec capture(term(), term(), term(), term(), keyword()) :: :ok
      def capture(distinct_id, event, properties \\ %{}, groups \\ %{}, opts \\ []),
        do: BilldogEng.Analytics.capture(__MODULE__, distinct_id, event, properties, groups, opts)

      @doc "See `BilldogEng.Analytics.identify/4`."
      @spec identify(term(), term(), keyword()) :: :ok
      def identify(distinct_id, properties \\ %{}, opts \\ []),
        do: BilldogEng.Analytics.identify(__MODULE__, distinct_id, properties, opts)

      @doc "See `BilldogEng.Analytics.set_person_properties/3`."
      @spec set_person_properties(term(), term()) :: :ok
      def set_person_properties(distinct_id, operations),
        do: BilldogEng.Analytics.set_person_properties(__MODULE__, distinct_id, operations)

      @doc "See `BilldogEng.Analytics.group_identify/4`."
      @spec group_identify(term(), term(), term()) :: :ok
      def group_identify(group_type, group_key, properties \\ %{}),
        do: BilldogEng.Analytics.group_identify(__MODULE__, group_type, group_key, properties)

      @doc "See `BilldogEng.Analytics.alias/3`."
      @spec alias(term(), term()) :: :ok
      def alias(distinct_id, alias), do: BilldogEng.Analytics.alias(__MODULE__, distinct_id, alias)

      @doc "See `BilldogEng.Analytics.capture_exception/5`."
      @spec capture_exception(term(), term(), term(), term()) :: :ok
      def capture_exception(distinct_id, exception, stacktrace, properties \\ %{}) do
        BilldogEng.Analytics.capture_exception(__MODULE__, distinct_id, exception, stacktrace, properties)
      end
    end
  end

  defp calls do
    quote location: :keep do
      @doc "See `BilldogEng.Analytics.flush/2`."
      @spec flush(timeout: timeout()) :: :ok | {:error, BilldogEng.Error.t()}
      def flush(opts \\ []), do: BilldogEng.Analytics.flush(__MODULE__, opts)

      @doc "See `BilldogEng.Analytics.queue_length/1`."
      @spec queue_length() :: non_neg_integer()
      def queue_length, do: BilldogEng.Analytics.queue_length(__MODULE__)

      @doc "See `BilldogEng.Analytics.shutdown/1`."
      @spec shutdown() :: :ok | {:error, BilldogEng.Error.t()}
      def shutdown, do: BilldogEng.Analytics.shutdown(__MODULE__)

      @doc "See `BilldogEng.Analytics.purge/1`."
      @spec purge() :: :ok | {:error, BilldogEng.Error.t()}
      def purge, do: BilldogEng.Analytics.purge(__MODULE__)

      @doc "See `BilldogEng.Analytics.set_mode/2`."
      @spec set_mode(:live | :disabled) :: :ok | {:error, BilldogEng.Error.t()}
      def set_mode(mode), do: BilldogEng.Analytics.set_mode(__MODULE__, mode)

      @doc "See `BilldogEng.Analytics.stats/1`."
      @spec stats() :: BilldogEng.Analytics.stats()
      def stats, do: BilldogEng.Analytics.stats(__MODULE__)
    end
  end

  def otp_app!(opts, module) do
    case opts do
      [otp_app: app] when is_atom(app) and app != nil ->
        app

      _ ->
        raise ArgumentError,
              "use BilldogEng takes the app whose configuration has the options, and nothing else: " <>
                "use BilldogEng, otp_app: :my_app, with config :my_app, #{inspect(module)}, …"
    end
  end

  def start_link(app, module, opts), do: app |> options(module, opts) |> Analytics.start_link()

  # Returns the modules of these apps that `use BilldogEng`.
  def clients(apps) do
    for app <- apps,
        Application.load(app) in [:ok, {:error, {:already_loaded, app}}],
        module <- Application.spec(app, :modules) || [],
        client?(module),
        do: module
  end

  # Returns the only one of them, or nil. Raises `ArgumentError` if there are several.
  def only_client(apps) do
    case clients(apps) do
      [] ->
        nil

      [module] ->
        module

      modules ->
        names = Enum.map_join(modules, " or ", &"--client #{inspect(&1)}")
        raise ArgumentError, "there are several clients, name one: " <> names
    end
  end

  defp client?(module),
    do: is_atom(module) and Code.ensure_loaded?(module) and function_exported?(module, :__billdogeng__, 0)

  # Returns the configured options of a client. Raises `ArgumentError` for a module that is none.
  def options(module) do
    if client?(module),
      do: options(module.__billdogeng__(), module, []),
      else: raise(ArgumentError, "#{inspect(module)} is no module with `use BilldogEng`")
  end

  # Returns all options of the client. An error shows none of them: the key is among them.
  def options(app, module, opts) do
    configured = Application.get_env(app, module, [])

    for {given, place} <- [{opts, "the child spec"}, {configured, "config #{inspect(app)}"}] do
      unless Keyword.keyword?(given) do
        raise ArgumentError, "expected the options of #{inspect(module)} in #{place} as a keyword list"
      end

      if Keyword.has_key?(given, :name) do
        raise ArgumentError,
              "#{inspect(module)} is its client's name: the :name in #{place} can't be another one"
      end
    end

    opts
    |> Options.to_map()
    |> Options.beneath(Options.to_map(configured))
    |> Map.put(:name, module)
    |> Map.to_list()
  end
end
