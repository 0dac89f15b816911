defmodule BilldogEng.InstallerTest do
  @moduledoc """
  `mix billdogeng.install`, on the trees of public generators and on trees that people have changed.
  """

  use ExUnit.Case, async: true

  alias BilldogEng.Installer.{Diff, Source, Steps}

  @trees Path.wildcard("test/fixtures/install/*.txt")

  # ── trees in memory ──

  defp tree(path) do
    [_ | parts] = String.split(File.read!(path), ~r/^==== /m)
    for part <- parts, into: %{}, do: part |> String.split("\n", parts: 2) |> List.to_tuple()
  end

  # Of an app of an umbrella, the files as seen from its folder.
  defp from_app(tree) do
    if Enum.any?(tree, fn {path, _} -> path =~ "apps/shop_web/" end) do
      tree = Map.new(tree, fn {path, text} -> {from_app_path(path), text} end)

      {%{
         name: :shop_web,
         module: ShopWeb.Analytics,
         application: ShopWeb.Application,
         config: "../../config"
       }, tree}
    else
      {app(), tree}
    end
  end

  defp from_app_path("apps/shop_web/" <> path), do: path
  defp from_app_path(path), do: "../../" <> path

  defp app, do: %{name: :shop, module: Shop.Analytics, application: Shop.Application, config: "config"}

  defp steps(app, tree) do
    list = fn "lib/**/*.ex" -> tree |> Map.keys() |> Enum.filter(&(&1 =~ ~r"^lib/.*\.ex$")) |> Enum.sort() end
    Steps.all(app, &tree[&1], list)
  end

  defp apply_steps(tree, steps) do
    Enum.reduce(steps, tree, fn
      {:create, path, text}, tree -> Map.put(tree, path, text)
      {:change, path, before, now}, tree -> Map.update!(tree, path, fn ^before -> now end)
      _other, tree -> tree
    end)
  end

  # The lines that each file got, and those that it lost.
  defp changes(steps) do
    for step <- steps, elem(step, 0) in [:create, :change], into: %{} do
      {path, before, now} =
        with(
          {:create, path, now} <- step,
          do: {path, nil, now},
          else: ({_, path, before, now} -> {path, before, now})
        )

      lines = for line <- Diff.lines(path, before, now), is_list(line), do: List.last(line)
      {path, Enum.reject(lines, &(String.trim(&1, "+") == ""))}
    end
  end

  defp manual(steps), do: for({:manual, path, _, lines} <- steps, do: {path, lines})

  for path <- @trees do
    test "#{Path.basename(path, ".txt")}: the client, its supervisor, configuration and Phoenix are set up" do
      {app, tree} = unquote(path) |> tree() |> from_app()
      steps = steps(app, tree)
      module = inspect(app.module)
      config = app.config
      assert manual(steps) == []

      assert changes(steps) == %{
               "lib/#{app.name}/analytics.ex" => [
                 "+defmodule #{module} do",
                 "+  use BilldogEng, otp_app: #{inspect(app.name)}",
                 "+end"
               ],
               "lib/#{app.name}/application.ex" => [
                 "+    BilldogEng.Telemetry.attach_phoenix(#{module})",
                 "+      #{module},"
               ],
               "#{config}/dev.exs" => [
                 "+# mix billdogeng.collector shows the events.",
                 "+config #{inspect(app.name)}, #{module},",
                 "+  api_key: \"any\",",
                 "+  host: \"http://127.0.0.1:4632\",",
                 "+  flush_interval: 500"
               ],
               "#{config}/test.exs" => [
                 "+# use BilldogEng.Test asserts on the events.",
                 "+config #{inspect(app.name)}, #{module}, mode: :test"
               ],
               "#{config}/runtime.exs" => [
                 "+  config #{inspect(app.name)}, #{module}, api_key: System.fetch_env!(\"BILLDOG_API_KEY\")"
               ],
               "lib/shop_web/router.ex" => ["+    plug BilldogEng.Visitor", "+    plug BilldogEng.Plug"],
               "lib/shop_web.ex" => ["+      on_mount BilldogEng.LiveView"],
               ".formatter.exs" => formatter(tree[".formatter.exs"])
             }

      # Still what `mix format` would write, in their place, and nothing to do a second time.
      now = apply_steps(tree, steps)

      for path <- ["lib/#{app.name}/analytics.ex", "lib/#{app.name}/application.ex"] do
        assert now[path] |> Code.format_string!() |> IO.iodata_to_binary() == String.trim_trailing(now[path])
      end

      application = now["lib/#{app.name}/application.ex"]
      [before, behind] = String.split(application, "      #{module},\n")
      assert before =~ ~r/ShopWeb.Telemetry,\n/ and behind =~ ~r/^      ShopWeb.Endpoint$/m
      assert Enum.all?(steps(app, now), &match?({:present, _}, &1))
    end
  end

  defp formatter(before) do
    [line] = Regex.run(~r/^  import_deps: .*$/m, before)
    ["-" <> line, "+" <> String.replace(line, "[", "[:billdogeng, ")]
  end

  test "an app that has users already gets no visitors, and the plug comes after theirs" do
    tree =
      Map.update!(tree("test/fixtures/install/phoenix-1.8.txt"), "lib/shop_web/router.ex", fn router ->
        String.replace(
          router,
          "plug :put_secure_browser_headers\n",
          "plug :put_secure_browser_headers\n    plug :fetch_current_scope_for_user\n"
        )
      end)

    now = apply_steps(tree, steps(app(), tree))

    assert now["lib/shop_web/router.ex"] =~
             "    plug :fetch_current_scope_for_user\n    plug BilldogEng.Plug\n  end\n"

    refute now["lib/shop_web/router.ex"] =~ "Visitor"
  end

  # ── what people have changed ──

  @application """
  defmodule Shop.Application do
    use Application

    def start(_type, _args) do
      CHILDREN
      Supervisor.start_link(children, strategy: :one_for_one)
    end
  end
  """

  defp children(children) do
    tree = %{"lib/shop/application.ex" => String.replace(@application, "CHILDREN", children)}
    step = Enum.find(steps(app(), tree), &(elem(&1, 1) =~ "application.ex"))

    with {:change, _, _, now} <- step,
         do:
           now
           |> String.split("\n")
           |> Enum.slice(4..-5//1)
           |> Enum.map_join("\n", &String.replace_prefix(&1, "    ", ""))
  end

  test "a child is inserted whatever the list looks like" do
    assert children("children = []") == "children = [Shop.Analytics]"
    assert children("children = [ShopWeb.Endpoint]") == "children = [Shop.Analytics, ShopWeb.Endpoint]"

    assert children("children = [{A, []}, {ShopWeb.Endpoint, a: 1}, B]") ==
             "children = [{A, []}, Shop.Analytics, {ShopWeb.Endpoint, a: 1}, B]"

    assert children("children = [A, B]") == "children = [Shop.Analytics, A, B]"

    assert children("children = [\n      A,\n      # the last\n      ShopWeb.Endpoint\n    ]") ==
             "children = [\n  A,\n  Shop.Analytics,\n  # the last\n  ShopWeb.Endpoint\n]"

    assert children("children = [\n      # none yet\n    ]") ==
             "children = [\n  Shop.Analytics\n  # none yet\n]"

    assert children("children = [\n      worker(A,\n        b: 1\n      ), ShopWeb.Endpoint\n    ]") ==
             "children = [\n  worker(A,\n    b: 1\n  ), Shop.Analytics, ShopWeb.Endpoint\n]"

    assert children("children = [Shop.Repo, Shop.Analytics]") == {:present, "lib/shop/application.ex"}
  end

  test "where there is no place, the step names the lines to add, and changes nothing" do
    for children <- ["children = children()", "kids = []", "children = [A] ++ more()", "children = ["] do
      assert {:manual, "lib/shop/application.ex", why,
              ["children = [Shop.Analytics, …]    # before the endpoint"]} = children(children)

      assert why == "has no place that is known; add to start/2 of Shop.Application"
    end

    tree = tree("test/fixtures/install/phoenix-1.8.txt")

    for {path, change, lines} <- [
          {"lib/shop_web/router.ex", &String.replace(&1, "pipeline :browser", "pipeline :web"),
           ["plug BilldogEng.Visitor", "plug BilldogEng.Plug"]},
          {"lib/shop_web.ex", &String.replace(&1, "use Phoenix.LiveView\n", "use Phoenix.LiveView }\n"),
           ["on_mount BilldogEng.LiveView"]},
          {".formatter.exs", fn _ -> "Shared.options()" end, ["import_deps: [:billdogeng]"]},
          {"config/test.exs", fn _ -> "[]" end,
           ["# use BilldogEng.Test asserts on the events.", "config :shop, Shop.Analytics, mode: :test"]}
        ] do
      assert [{^path, ^lines}] = manual(steps(app(), Map.update!(tree, path, change)))
    end

    one_line =
      &String.replace(&1, ~r/  pipeline :browser do.*?\n  end\n/s, "  pipeline :browser do plug :a end\n")

    assert [{"lib/shop_web/router.ex", _}] =
             manual(steps(app(), Map.update!(tree, "lib/shop_web/router.ex", one_line)))

    mine = %{"lib/shop/analytics.ex" => "defmodule Shop.Analytics do\nend\n"}

    assert [{:manual, "lib/shop/analytics.ex", why, ["defmodule Shop.Analytics do" | _]}] =
             steps(app(), Map.merge(tree, mine))

    assert why == "is another module; choose another name by --module"

    assert [{"mix.exs", ["children = [Shop.Analytics]"]} | _] =
             manual(steps(%{app() | application: nil}, %{}))
  end

  test "a name of the client elsewhere is not its child, and a call in a comment is none" do
    tree =
      Map.update!(tree("test/fixtures/install/phoenix-1.8.txt"), "lib/shop/application.ex", fn application ->
        more = "    # attach_phoenix comes later\n    config = %{client: Shop.Analytics}\n    children = ["
        String.replace(application, "    children = [", more)
      end)

    now = apply_steps(tree, steps(app(), tree))["lib/shop/application.ex"]
    assert now =~ "      Shop.Analytics,\n"
    assert now =~ "    BilldogEng.Telemetry.attach_phoenix(Shop.Analytics)\n"
  end

  test "the client that the app has is found under any name" do
    events = "defmodule Shop.Events do\n  # of the shop\n  use BilldogEng, otp_app: :shop\nend\n"
    tree = %{"lib/a.ex" => "defmodule A do\nend\n", "lib/shop/e.ex" => events}
    assert Steps.client(&tree[&1], fn _ -> Map.keys(tree) end) == Shop.Events
    assert Steps.client(&tree[&1], fn _ -> ["lib/a.ex"] end) == nil
  end

  test "line ends stay what they are" do
    tree =
      Map.new(tree("test/fixtures/install/phoenix-1.8.txt"), fn {path, text} ->
        {path, String.replace(text, "\n", "\r\n")}
      end)

    steps = steps(app(), tree)
    assert manual(steps) == []
    for {:change, _, _, now} <- steps, do: refute(now =~ ~r/[^\r]\n/)
    assert Enum.all?(steps(app(), apply_steps(tree, steps)), &match?({:present, _}, &1))
  end

  test "a runtime.exs without a block for production gets one" do
    tree = %{"config/runtime.exs" => "import Config\n\nif config_env() == :test do\n  config :a, b: 1\nend\n"}
    now = apply_steps(tree, steps(app(), tree))["config/runtime.exs"]
    [_, block] = String.split(now, "end\n\nif config_env() == :prod do\n", parts: 2)
    assert block == "  config :shop, Shop.Analytics, api_key: System.fetch_env!(\"BILLDOG_API_KEY\")\nend\n"
  end

  test "the key goes to the part for production, also where there is an else" do
    runtime =
      "import Config\n\nif config_env() == :prod do\n  config :a, b: 1\nelse\n  config :a, b: 2\nend\n"

    tree = %{"config/runtime.exs" => runtime}
    now = apply_steps(tree, steps(app(), tree))["config/runtime.exs"]
    [production, _] = String.split(now, "else\n")
    assert production =~ "BILLDOG_API_KEY"
  end

  test "an option of .formatter.exs is added in each form" do
    add = &Source.add_to_option(&1, :import_deps, :billdogeng)
    assert add.("[inputs: []]") == {:ok, "[import_deps: [:billdogeng], inputs: []]"}
    assert add.("[import_deps: []]") == {:ok, "[import_deps: [:billdogeng]]"}

    assert add.("[\n  import_deps: [\n    :a\n  ]\n]") ==
             {:ok, "[\n  import_deps: [\n    :billdogeng, :a\n  ]\n]"}

    assert add.("[") == :error
  end

  # ── a real app ──

  @tag :slow
  @tag :tmp_dir
  test "mix new --sup, install, run: the app starts, its test mode works, and a second run changes nothing",
       %{tmp_dir: dir} do
    mix!(dir, ~w(new shop --sup))
    app = Path.join(dir, "shop")
    root = File.cwd!()

    mix_exs = app |> Path.join("mix.exs") |> File.read!()

    mix_exs =
      Regex.replace(
        ~r/defp deps do\n    \[\n(.*?)    \]/s,
        mix_exs,
        "defp deps do\n    [{:billdogeng, path: #{inspect(root)}}]"
      )

    File.write!(Path.join(app, "mix.exs"), mix_exs)

    dry = mix!(app, ~w(billdogeng.install --dry-run))
    assert dry =~ "+++ lib/shop/analytics.ex" and dry =~ "Nothing was written"
    refute File.exists?(Path.join(app, "config"))

    output = mix!(app, ~w(billdogeng.install))

    for path <- ~w(lib/shop/analytics.ex config/config.exs config/runtime.exs),
        do: assert(output =~ "* creating #{path}")

    for path <- ~w(lib/shop/application.ex .formatter.exs), do: assert(output =~ "* injecting #{path}")
    assert output =~ "iex> Shop.Analytics.capture(\"user-1\", \"signed_up\")"
    before = files(app)
    assert mix!(app, ~w(billdogeng.install)) =~ "Nothing to do: everything is there."
    assert files(app) == before
    mix!(app, ~w(format --check-formatted))

    File.write!(Path.join(app, "test/shop_test.exs"), """
    defmodule ShopTest do
      use ExUnit.Case
      use BilldogEng.Test

      test "an event is captured" do
        Shop.Analytics.capture("user-1", "signed_up")
        assert_captured "signed_up"
      end
    end
    """)

    mix!(app, ~w(format --check-formatted))
    assert mix!(app, ~w(test), [{"MIX_ENV", "test"}]) =~ ~r/1 (test, 0 failures|passed)/
    {output, 1} = mix(app, ~w(billdogeng.install --modul X), [])
    assert output =~ "takes --dry-run and --module MODULE, got: --modul X"
  end

  defp files(dir) do
    for path <- Path.wildcard(Path.join(dir, "{lib,config,test}/**/*.*"), match_dot: true),
        into: %{},
        do: {path, File.read!(path)}
  end

  defp mix!(dir, arguments, env \\ []) do
    {output, status} = mix(dir, arguments, env)
    assert status == 0, output
    output
  end

  # With the native library that these tests use.
  defp mix(dir, arguments, env) do
    library = Path.wildcard(Application.app_dir(:billdogeng, "priv/native/billdogeng_nif.{so,dll}")) |> hd()
    env = [{"MIX_ENV", "dev"}, {"BILLDOGENG_NIF", library}, {"MIX_BUILD_PATH", nil}] ++ env
    System.cmd("mix", arguments, cd: dir, env: env, stderr_to_stdout: true)
  end
end
