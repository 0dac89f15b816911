defmodule Mix.Tasks.Billdogeng.SendTestEvent do
  @shortdoc "Sends one event with the app's configuration, and prints the cause if that fails"

  @moduledoc """
  Sends one event to the ingest with the app's own configuration, and prints the host, the proxy and the result.

      $ mix billdogeng.send_test_event
      client     MyApp.Analytics
      host       https://api.billdog.io/v1
      proxy      none
      library    /app/_build/dev/lib/billdogeng/priv/native/billdogeng_nif.so
      TLS roots  the system's
      status     200
      took       48 ms
      The ingest has accepted the event "billdogeng_test_event" of "billdogeng-test".

  If it fails, the exit status is 1, and the last lines are the cause and the remedy. The key is never printed. If the app runs
  in the same VM, as with `mix do app.start, billdogeng.send_test_event`, the task also prints the client's state and its last
  error.

  The options are those of the app's module with `use BilldogEng`, from the configuration of this `MIX_ENV`, or those of
  `config :billdogeng` without such a module. Options of a child spec are not known to the task. The app is compiled, and not
  started. The event is sent once, for every `:mode`, without `:before_send` and the spool.

    * `--client MyApp.Analytics` - the module, if the app has several
    * `--host URL`, `--api-key KEY` - override the configured ones
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

    print([{"client", client} | mode(opts, test)] ++ TestEvent.facts(test) ++ TestEvent.running(client))
    report(TestEvent.send(test))
  end

  defp configured(name) do
    apps = Map.keys(Mix.Project.apps_paths() || %{Mix.Project.config()[:app] => "."})

    case if(name, do: Module.concat([name]), else: Using.only_client(apps)) do
      nil -> {"none, so config :billdogeng", []}
      module -> {inspect(module), Using.options(module)}
    end
  rescue
    error in ArgumentError -> Mix.raise(Exception.message(error))
  end

  # Without a key nothing is sent, in any mode: the last line reports that.
  defp mode(_opts, %{api_key: ""}), do: []

  defp mode(opts, _test) do
    case Keyword.get_lazy(opts, :mode, fn -> Application.get_env(:billdogeng, :mode, :live) end) do
      :live -> []
      mode -> [{"mode", "#{inspect(mode)}, so the app sends nothing here; this one event is sent"}]
    end
  end

  defp report({:ok, status, ms}) do
    print([{"status", status}, {"took", "#{ms} ms"}])
    Mix.shell().info(~s(The ingest has accepted the event "billdogeng_test_event" of "billdogeng-test".))
  end

  defp report({:error, status, ms, cause, remedy}) do
    print(if(status, do: [{"status", status}], else: []) ++ if(ms, do: [{"took", "#{ms} ms"}], else: []))
    Mix.raise("the event was not accepted: #{cause}.\nRemedy: #{remedy}.")
  end

  defp print(lines) do
    for {label, text} <- lines, do: Mix.shell().info(String.pad_trailing(label, 11) <> to_string(text))
  end
end
