defmodule Mix.Tasks.Billdogeng.SendTestEvent do
  @shortdoc "Sends one event as the app would, and says what is wrong where that fails"

  @moduledoc """
  Sends one event to the ingest with the app's own configuration, and prints by which way it went.

      $ mix billdogeng.send_test_event
      client     MyApp.Analytics
      host       https://api.billdog.io/v1
      proxy      none
      library    /app/_build/dev/lib/billdogeng/priv/native/billdogeng_nif.so
      TLS roots  the system's
      status     200
      took       48 ms
      The ingest has accepted the event "billdogeng_test_event" of "billdogeng-test".

  Where it fails, the exit status is 1, and the last lines are the cause and what to do about it. The key is never
  printed. Where the app runs in the same VM, as with `mix do app.start, billdogeng.send_test_event`, the client's
  state and its last error are printed too.

  The options are those of the one module of the app that has `use BilldogEng`, as `config/runtime.exs` and the like
  give them in this `MIX_ENV`, or `config :billdogeng` where there is none; what a child spec adds to them is not
  known here. The app is compiled, and not started. The event is sent whatever `:mode` says, once, past
  `:before_send` and the spool.

    * `--client MyApp.Analytics` - that module's options, where there are several
    * `--host URL`, `--api-key KEY` - in place of the configured ones
  """

  use Mix.Task

  alias BilldogEng.Client.{TestEvent, Using}

  @switches [client: :string, host: :string, api_key: :string]

  @impl true
  def run(argv) do
    {given, rest, wrong} = OptionParser.parse(argv, strict: @switches)

    if rest != [] or wrong != [] do
      # Not what was given: it may be a key.
      Mix.raise(
        "takes --client MODULE, --host URL and --api-key KEY; see mix help billdogeng.send_test_event"
      )
    end

    Mix.Task.run("app.config")
    {client, configured} = configured(given[:client])
    opts = given |> Keyword.take([:host, :api_key]) |> Keyword.merge(configured, fn _, given, _ -> given end)

    test =
      try do
        TestEvent.new(opts)
      rescue
        error in ArgumentError -> Mix.raise("the options can't be used: " <> Exception.message(error))
      end

    say([{"client", client} | mode(opts, test)] ++ TestEvent.facts(test) ++ TestEvent.running(client))
    report(TestEvent.send(test))
  end

  defp configured(nil) do
    apps = Map.keys(Mix.Project.apps_paths() || %{Mix.Project.config()[:app] => "."})

    case TestEvent.clients(apps) do
      [] ->
        {"none, so config :billdogeng", []}

      [module] ->
        of(module)

      modules ->
        Mix.raise(
          "there are several clients, name one: " <>
            Enum.map_join(modules, " or ", &"--client #{inspect(&1)}")
        )
    end
  end

  defp configured(name) do
    module = Module.concat([name])

    if Code.ensure_loaded?(module) and function_exported?(module, :__billdogeng__, 0),
      do: of(module),
      else: Mix.raise("#{inspect(module)} is no module with `use BilldogEng`")
  end

  defp of(module) do
    {inspect(module), Using.options(module.__billdogeng__(), module, [])}
  rescue
    error in ArgumentError -> Mix.raise(Exception.message(error))
  end

  # Without a key nothing is sent, whatever the mode: that is said at the end.
  defp mode(_opts, %{api_key: ""}), do: []

  defp mode(opts, _test) do
    case Keyword.get_lazy(opts, :mode, fn -> Application.get_env(:billdogeng, :mode, :live) end) do
      :live -> []
      mode -> [{"mode", "#{inspect(mode)}, so the app sends nothing here; this one event is sent"}]
    end
  end

  defp report({:ok, status, ms}) do
    say([{"status", status}, {"took", "#{ms} ms"}])
    Mix.shell().info(~s(The ingest has accepted the event "billdogeng_test_event" of "billdogeng-test".))
  end

  defp report({:error, status, ms, cause, remedy}) do
    say(if(status, do: [{"status", status}], else: []) ++ if(ms, do: [{"took", "#{ms} ms"}], else: []))
    Mix.raise("the event was not accepted: #{cause}.\nWhat to do: #{remedy}.")
  end

  defp say(lines) do
    for {label, text} <- lines, do: Mix.shell().info(String.pad_trailing(label, 11) <> to_string(text))
  end
end
