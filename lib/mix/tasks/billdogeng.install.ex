defmodule Mix.Tasks.Billdogeng.Install do
  @shortdoc "Sets the client up in an app: module, supervisor, configuration, Phoenix"

  @moduledoc """
  Sets the client up in the app of the current folder.

      $ mix billdogeng.install
      * creating lib/my_app/analytics.ex
      * injecting lib/my_app/application.ex
      * injecting config/dev.exs
      * injecting config/test.exs
      * injecting config/runtime.exs
      * injecting lib/my_app_web/router.ex
      * injecting lib/my_app_web.ex
      * injecting .formatter.exs

  The dependency must be in `mix.exs`. The task

    * creates a client, a module with `use BilldogEng`,
    * starts it before the endpoint, or as the first child,
    * configures it: in development for `mix billdogeng.collector`, in tests for `BilldogEng.Test`, in production with the key in
      the variable `BILLDOG_API_KEY`,
    * in an app with Phoenix: captures page views, LiveViews and failures, with `BilldogEng.Plug` and `BilldogEng.LiveView`.
      Where no plug assigns a user, `BilldogEng.Visitor` gives visitors an ID, which is kept in the session.

  Where it does not find the place for a change, it prints the change. It can be run again: a change that was made already is
  not made twice. In an umbrella, run it in the folder of the app that has the endpoint.

    * `--dry-run` - show the changes, and write nothing
    * `--module MyApp.Events` - the name of the client's module. By default that of the client that the app has, or
      `MyApp.Analytics`
  """

  use Mix.Task

  alias BilldogEng.Installer.{Diff, Steps}

  @switches [dry_run: :boolean, module: :string]

  @impl true
  def run(argv) do
    {opts, rest, wrong} = OptionParser.parse(argv, strict: @switches)

    if rest != [] or wrong != [],
      do: Mix.raise("takes --dry-run and --module MODULE, got: #{Enum.join(argv, " ")}")

    if Mix.Project.umbrella?() do
      Mix.raise(
        "this is an umbrella: run mix billdogeng.install in the folder of the app that has the endpoint, one of " <>
          Enum.map_join(Mix.Project.apps_paths(), ", ", &elem(&1, 1))
      )
    end

    app = app(opts)
    steps = Steps.all(app, &read/1, &Path.wildcard/1)
    for step <- steps, do: carry_out(step, opts[:dry_run] == true)
    conclude(app, steps, opts[:dry_run] == true)
  end

  defp app(opts) do
    config = Mix.Project.config()
    project = Mix.Project.get!()
    application = if function_exported?(project, :application, 0), do: project.application()[:mod]
    default = Module.concat([config[:app] |> Atom.to_string() |> Macro.camelize(), "Analytics"])

    %{
      name: config[:app],
      module: module(opts[:module]) || Steps.client(&read/1, &Path.wildcard/1) || default,
      application: with({module, _} <- application, do: module),
      config: Path.dirname(config[:config_path])
    }
  end

  defp module(nil), do: nil

  defp module(name) do
    if name =~ ~r/^[A-Z]\w*(\.[A-Z]\w*)*$/,
      do: Module.concat([name]),
      else: Mix.raise("--module takes the name of a module such as MyApp.Analytics, got: #{name}")
  end

  defp read(path) do
    case File.read(path) do
      {:ok, text} -> text
      {:error, _} -> nil
    end
  end

  # ── the steps ──

  defp carry_out({:present, _path}, _), do: :ok
  defp carry_out({:create, path, text}, true), do: show(path, nil, text)
  defp carry_out({:change, path, before, now}, true), do: show(path, before, now)
  defp carry_out({:create, path, text}, false), do: write(path, text, "creating")
  defp carry_out({:change, path, _before, now}, false), do: write(path, now, "injecting")

  defp carry_out({:manual, path, why, lines}, _) do
    Mix.shell().info([:yellow, "* to do ", :reset, path, " ", why, ":\n"])
    for line <- lines, do: Mix.shell().info("    " <> line)
    Mix.shell().info("")
  end

  defp write(path, text, what) do
    Mix.shell().info([:green, "* #{what} ", :reset, path])
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text)
  end

  defp show(path, before, now) do
    for line <- Diff.lines(path, before, now), do: Mix.shell().info(line)
  end

  # ── the end ──

  defp conclude(_app, _steps, true), do: Mix.shell().info("\nNothing was written: this was a dry run.")

  defp conclude(app, steps, false) do
    if Enum.all?(steps, &match?({:present, _}, &1)),
      do: Mix.shell().info("Nothing to do: everything is there.")

    phoenix? = Enum.any?(steps, &(elem(&1, 1) =~ "router"))

    start =
      if phoenix?,
        do: ["    mix phx.server                 # and open a page of the app"],
        else: ["    iex -S mix", "    iex> #{inspect(app.module)}.capture(\"user-1\", \"signed_up\")"]

    Mix.shell().info("""

    To see the first event:

        mix billdogeng.collector       # in another shell
    #{Enum.join(start, "\n")}

    It is on http://127.0.0.1:4633 within a second. In production, set BILLDOG_API_KEY to the project's key:

        MIX_ENV=prod mix billdogeng.send_test_event
    """)

    if Enum.any?(steps, &visitors?/1) do
      Mix.shell().info("""
      Visitors without an account get a random ID in the session. To capture users alone, remove the line
      `plug BilldogEng.Visitor` of the router; to wait for consent, see BilldogEng.Visitor.
      """)
    end
  end

  defp visitors?({:change, _, _, now}), do: now =~ "plug BilldogEng.Visitor"
  defp visitors?(_), do: false
end
