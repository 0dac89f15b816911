defmodule BilldogEng.Installer.Steps do
  @moduledoc false
  # The changes that an app needs, each for one file. A step is
  #
  #     {:create, path, text} | {:change, path, before, now} | {:present, path} | {:manual, path, why, lines}
  #
  # where `:manual` is a change that the user has to make: the place for it was not found.

  alias BilldogEng.Installer.Source

  @key "BILLDOG_API_KEY"

  # `app` has the app's name, the client's module, the module of the application and the folder of the configuration. Files
  # are read by `read`, which returns nil if there is no such file, and listed by `list`.
  def all(app, read, list) do
    files = %{read: read, list: list}

    case module(app, files) do
      # Without a client there is nothing to start or configure.
      {:manual, _, _, _} = step -> [step]
      step -> [step | others(app, files)]
    end
  end

  # Returns the module of the app's client, if it has one.
  def client(read, list) do
    Enum.find_value(list.("lib/**/*.ex"), fn path ->
      case Regex.run(~r/^defmodule ([\w.]+) do\n(?:.*\n)*?\s*use BilldogEng\b/, read.(path) || "") do
        [_, name] -> Module.concat([name])
        nil -> nil
      end
    end)
  end

  defp others(app, files) do
    phoenix = phoenix(files)

    [&application(app, &1, phoenix), &dev(app, &1), &test(app, &1), &runtime(app, &1)]
    |> Enum.concat(web(phoenix))
    |> Enum.concat([&formatter/1])
    |> Enum.reduce([], fn step, steps -> join(steps, step.(over(files, steps))) end)
  end

  # The files as they are after these steps.
  defp over(files, steps) do
    texts =
      Map.new(steps, fn
        {:create, path, text} -> {path, text}
        {:change, path, _before, now} -> {path, now}
        other -> {elem(other, 1), files.read.(elem(other, 1))}
      end)

    %{files | read: fn path -> Map.get_lazy(texts, path, fn -> files.read.(path) end) end}
  end

  # Two changes of one file are one step.
  defp join(steps, {:change, path, now, later} = step) do
    case Enum.split_while(steps, &(elem(&1, 1) != path)) do
      {before, [{:create, _, ^now} | rest]} -> before ++ [{:create, path, later} | rest]
      {before, [{:change, _, first, ^now} | rest]} -> before ++ [{:change, path, first, later} | rest]
      _ -> steps ++ [step]
    end
  end

  defp join(steps, step), do: steps ++ [step]

  # ── the client ──

  defp module(app, files) do
    path = "lib/#{Macro.underscore(app.module)}.ex"
    text = "defmodule #{inspect(app.module)} do\n  use BilldogEng, otp_app: #{inspect(app.name)}\nend\n"

    case files.read.(path) do
      nil ->
        {:create, path, text}

      source ->
        if Source.mentions?(source, BilldogEng),
          do: {:present, path},
          else: {:manual, path, "is another module; choose another name by --module", lines(text)}
    end
  end

  # ── the supervisor ──

  defp application(%{application: nil} = app, _files, _phoenix) do
    {:manual, "mix.exs", "names no module of the application: start the client in a supervisor of the app",
     ["children = [#{inspect(app.module)}]"]}
  end

  defp application(app, files, phoenix) do
    child = inspect(app.module)
    telemetry = if phoenix.router, do: ["BilldogEng.Telemetry.attach_phoenix(#{child})"], else: []
    path = file_of(files, app.application)
    by_hand = telemetry ++ ["children = [#{child}, …]    # before the endpoint"]

    place = "start/2 of #{inspect(app.application)}"

    change(files, path || "lib/**/application.ex", by_hand, place, fn source ->
      with {:ok, source} <- add_child(source, app.module) do
        if telemetry == [] or Source.calls?(source, :attach_phoenix),
          do: {:ok, source},
          else: Source.insert_in_function(source, :start, 2, telemetry)
      end
    end)
  end

  defp add_child(source, module) do
    if Source.child?(source, module),
      do: {:ok, source},
      else: Source.insert_child(source, inspect(module), &endpoint?/1)
  end

  defp endpoint?({:__aliases__, _, names}), do: List.last(names) == :Endpoint
  defp endpoint?({:__block__, _, [{child, _options}]}), do: endpoint?(child)
  defp endpoint?(_), do: false

  # ── the configuration ──

  defp dev(app, files) do
    config(app, files, "dev", [
      "# mix billdogeng.collector shows the events.",
      "#{configuration(app)},",
      "  api_key: \"any\",",
      "  host: \"http://127.0.0.1:4632\",",
      "  flush_interval: 500"
    ])
  end

  defp test(app, files) do
    config(app, files, "test", [
      "# use BilldogEng.Test asserts on the events.",
      "#{configuration(app)}, mode: :test"
    ])
  end

  defp configuration(app), do: "config #{inspect(app.name)}, #{inspect(app.module)}"

  # In the file of the environment; without one in config.exs, which is created if need be.
  defp config(app, files, env, lines) do
    path = Path.join(app.config, "#{env}.exs")

    if files.read.(path) do
      change(files, path, lines, "the end of the file", &append(&1, app.module, lines))
    else
      path = Path.join(app.config, "config.exs")
      block = ["if config_env() == :#{env} do" | Enum.map(lines, &("  " <> &1))] ++ ["end"]

      change(files, path, block, "the end of the file", fn source ->
        if Source.configures?(source, app.module, String.to_atom(env)),
          do: {:ok, source},
          else: append_text(source, block)
      end)
    end
  end

  defp runtime(app, files) do
    path = Path.join(app.config, "runtime.exs")
    line = "#{configuration(app)}, api_key: System.fetch_env!(\"#{@key}\")"
    block = ["if config_env() == :prod do", "  " <> line, "end"]

    change(files, path, block, "the end of the file", fn source ->
      if Source.configures?(source, app.module) do
        {:ok, source}
      else
        with :error <- Source.insert_in_block(source, ["", line], &production?/2),
             do: append_text(source, block)
      end
    end)
  end

  defp production?(:if, [condition | _]), do: Source.environment?(condition, :prod)
  defp production?(_, _), do: false

  defp append(source, module, lines) do
    if Source.configures?(source, module), do: {:ok, source}, else: append_text(source, lines)
  end

  # A file of configuration that has no `import Config` is something else.
  defp append_text(source, lines) do
    if source =~ ~r/^\s*(import Config|use Mix\.Config)/m,
      do: {:ok, String.trim_trailing(source) <> "\n\n" <> Enum.join(lines, "\n") <> "\n"},
      else: :error
  end

  # ── Phoenix ──

  defp phoenix(files) do
    sources = for path <- files.list.("lib/**/*.ex"), do: {path, files.read.(path)}

    find = fn patterns ->
      Enum.find_value(sources, fn {path, source} -> if(Enum.all?(patterns, &(source =~ &1)), do: path) end)
    end

    %{
      router: find.([~r/^\s*use (Phoenix\.Router|[\w.]+, :router)\b/m, ~r/^\s*pipeline :\w+ do/m]),
      live_view: find.([~r/^\s*use Phoenix\.LiveView\b/m, ~r/^\s*def live_view\b/m])
    }
  end

  defp web(%{router: nil}), do: []
  defp web(%{live_view: nil} = phoenix), do: [&router(phoenix, &1)]
  defp web(phoenix), do: [&router(phoenix, &1), &live_view(phoenix, &1)]

  defp router(phoenix, files) do
    change(files, phoenix.router, plugs(""), "the end of the pipeline :browser", fn source ->
      if Source.mentions?(source, BilldogEng.Plug),
        do: {:ok, source},
        else: Source.insert_in_block(source, plugs(source), &browser?/2)
    end)
  end

  defp browser?(:pipeline, [:browser | _]), do: true
  defp browser?(_, _), do: false

  # Where no plug assigns a user, visitors get an ID: without one nothing would be captured.
  defp plugs(source) do
    if Source.plugs_user?(source),
      do: ["plug BilldogEng.Plug"],
      else: ["plug BilldogEng.Visitor", "plug BilldogEng.Plug"]
  end

  # In the LiveViews' own module: its hooks run after those of each live_session, which assign the user.
  defp live_view(phoenix, files) do
    hook = ["on_mount BilldogEng.LiveView"]

    change(files, phoenix.live_view, hook, "live_view/0, behind use Phoenix.LiveView", fn source ->
      router = files.read.(phoenix.router)

      if Enum.any?([source, router], &Source.mentions?(&1, BilldogEng.LiveView)),
        do: {:ok, source},
        else: Source.insert_after_use(source, :live_view, Phoenix.LiveView, hook)
    end)
  end

  # ── the formatter ──

  # It knows then that assert_captured and refute_captured have no parentheses.
  defp formatter(files) do
    change(files, ".formatter.exs", ["import_deps: [:billdogeng]"], "its options", fn source ->
      Source.add_to_option(source, :import_deps, :billdogeng)
    end)
  end

  # ── help ──

  # Returns the step of a file. `insert` returns the file's new text, which must be Elixir.
  defp change(files, path, lines, place, insert) do
    case {files.read.(path), Path.extname(path)} do
      {nil, ".exs"} when path != ".formatter.exs" ->
        {:create, path, "import Config\n\n" <> Enum.join(lines, "\n") <> "\n"}

      {nil, _} ->
        {:manual, path, "is missing; #{place} needs", lines}

      {source, _} ->
        # Of a file that has both, no line end is changed.
        crlf? = source =~ "\r\n" and not (source =~ ~r/(^|[^\r])\n/)
        text = if crlf?, do: String.replace(source, "\r\n", "\n"), else: source

        with {:ok, now} <- insert.(text),
             {:ok, _} <- Source.parse(now) do
          now = if crlf?, do: String.replace(now, "\n", "\r\n"), else: now
          if now == source, do: {:present, path}, else: {:change, path, source, now}
        else
          _ -> {:manual, path, "has no place that is known; add to #{place}", lines}
        end
    end
  end

  defp file_of(files, module) do
    Enum.find(files.list.("lib/**/*.ex"), &(files.read.(&1) =~ "defmodule #{inspect(module)} do"))
  end

  defp lines(text), do: String.split(text, "\n", trim: true)
end
