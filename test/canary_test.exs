defmodule BilldogEng.CanaryTest do
  @moduledoc """
  Secrets wherever an app has some: none of their bytes reaches the collector or a log line of ours.
  """

  # Alone: handlers get all telemetry events, and the test reads all log lines.
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.{Context, Recorded, Telemetry}

  # In all that the fixtures have of a visitor's or of the app's own.
  @canary "s3cret"

  defmodule Repo do
    def config, do: [password: "s3cret-password", telemetry_prefix: [:canary, :repo]]
  end

  defp conn do
    %{
      adapter: {Adapter, "s3cret-payload"},
      assigns: %{current_scope: %{user: %{id: "u1", email: "s3cret-email"}}, token: "s3cret-assign"},
      body_params: %{"password" => "s3cret-body"},
      cookies: %{"session" => "s3cret-cookie"},
      host: "localhost",
      method: "GET",
      params: %{"password" => "s3cret-param", "reset" => "s3cret-path"},
      path_info: ["list", "s3cret-path"],
      path_params: %{"id" => "s3cret-path"},
      private: %{phoenix_router: ShopWeb.Router, plug_session: %{"token" => "s3cret-session"}},
      query_string: "token=s3cret-query",
      remote_ip: {198, 51, 100, 7},
      req_headers: [{"authorization", "Bearer s3cret-header"}],
      request_path: "/list/s3cret-path",
      resp_body: "s3cret-response",
      resp_headers: [
        {"content-type", "text/html; charset=utf-8"},
        {"x-request-id", "r1"},
        {"set-cookie", "session=s3cret-cookie"}
      ],
      secret_key_base: "s3cret-key-base",
      status: 200
    }
  end

  defp socket do
    %{
      assigns: %{current_scope: %{user: %{id: "u1", email: "s3cret-email"}}, token: "s3cret-assign"},
      endpoint: ShopWeb.Endpoint,
      id: "phx-1",
      parent_pid: nil,
      private: %{
        connect_params: %{"token" => "s3cret-connect", "_live_referer" => "http://localhost/s3cret-referer"}
      },
      root_pid: self(),
      router: ShopWeb.Router,
      transport_pid: self(),
      view: ShopWeb.ListLive
    }
  end

  defp job do
    %{
      args: %{"card" => "s3cret-arg"},
      attempt: 1,
      errors: [%{"error" => "s3cret-error"}],
      max_attempts: 1,
      meta: %{"distinct_id" => "u1", "note" => "s3cret-meta"},
      queue: "default",
      tags: ["s3cret-tag"],
      worker: "Shop.Worker"
    }
  end

  defp everything(steps) do
    duration = %{duration: 1_000_000}
    for {step, _} <- steps, do: apart(fn -> Recorded.replay(steps, step) end)
    apart(fn -> request(duration) end)
    apart(fn -> live_view(duration) end)
    apart(fn -> jobs_and_queries(duration) end)
  end

  # In a process of its own, which serves a user.
  defp apart(fun) do
    {:ok, process} = Agent.start(fn -> Context.put(distinct_id: "u1") end)
    Agent.update(process, fn _ -> fun.() end)
    Agent.stop(process)
  end

  defp failure do
    # A frame of a stacktrace may have the arguments.
    frame = {Shop.Checkout, :pay, ["s3cret-argument"], [file: ~c"lib/shop.ex", line: 1]}
    %{kind: :error, reason: %RuntimeError{message: "s3cret-message"}, stacktrace: [frame]}
  end

  defp request(duration) do
    conn = BilldogEng.Plug.call(conn(), BilldogEng.Plug.init([]))
    Analytics.capture(:canary, "u1", "explicit", %{n: 1})
    conn = Plug.Conn.run_before_send(conn)

    :telemetry.execute([:phoenix, :router_dispatch, :stop], duration, %{
      conn: conn,
      route: "/list/:id",
      plug: Shop
    })

    :telemetry.execute(
      [:phoenix, :error_rendered],
      duration,
      Map.merge(failure(), %{conn: conn, status: 500})
    )

    :telemetry.execute([:canary, :custom], duration, %{conn: conn, job: job(), socket: socket()})
  end

  defp live_view(duration) do
    {:cont, socket} =
      BilldogEng.LiveView.on_mount(:default, %{"id" => "s3cret-path"}, %{"t" => "s3cret"}, socket())

    uri = "http://s3cret-user:s3cret-password@localhost/list/s3cret-path?token=s3cret-query#s3cret-fragment"
    for {_, hook} <- socket.private.hooks, do: hook.(%{"id" => "s3cret-path"}, uri, socket)

    about = %{
      socket: socket,
      params: %{"p" => "s3cret-lv-param"},
      session: %{"s" => "s3cret-session"},
      uri: uri
    }

    :telemetry.execute([:phoenix, :live_view, :mount, :stop], duration, about)
    :telemetry.execute([:phoenix, :live_view, :handle_event, :stop], duration, Map.put(about, :event, "save"))
    raised = about |> Map.merge(failure()) |> Map.put(:event, "save")
    :telemetry.execute([:phoenix, :live_view, :handle_event, :exception], duration, raised)
    Analytics.capture(:canary, "u1", "explicit_live")
  end

  defp jobs_and_queries(duration) do
    :telemetry.execute([:oban, :job, :stop], duration, %{
      job: job(),
      state: :success,
      result: {:ok, "s3cret-result"}
    })

    :telemetry.execute(
      [:oban, :job, :exception],
      duration,
      Map.merge(failure(), %{job: job(), state: :discard})
    )

    query = %{
      query: "SELECT 's3cret-literal'",
      params: ["s3cret-ecto"],
      cast_params: ["s3cret-ecto"],
      source: "users",
      repo: Repo,
      result: {:error, %{message: "s3cret-database"}},
      options: []
    }

    :telemetry.execute([:canary, :repo, :query], %{total_time: 1_000_000_000}, query)
  end

  defp attach(client, opts) do
    :ok = Telemetry.attach(client, [:canary, :custom], opts)
    :ok = Telemetry.attach_phoenix(client, opts)
    :ok = Telemetry.attach_ecto(client, Repo, [slower_than: 0] ++ opts)
    :ok = Telemetry.attach_oban(client, opts)
    ids = for %{id: id, client: ^client} <- Telemetry.handlers(), do: id
    on_exit(fn -> Enum.each(ids, &Telemetry.detach/1) end)
    assert length(ids) == 4
    ids
  end

  # Its own start and end are quiet.
  defp client(collector, name), do: start_client(collector, name: name, context: true, enable_logging: true)

  setup do
    steps = Recorded.steps("phoenix")
    assert inspect(steps, limit: :infinity, printable_limit: :infinity) =~ @canary
    %{steps: steps, collector: start_collector()}
  end

  test "what handlers capture, with their defaults, has none", %{steps: steps, collector: collector} do
    client(collector, :canary)
    attach(:canary, [])

    log =
      capture_log(fn ->
        everything(steps)
        assert Analytics.flush(:canary) == :ok
      end)

    names = names(collector)

    for name <-
          ~w(page_viewed request_failed live_event live_view_failed job_completed job_failed slow_query) ++
            ~w(explicit explicit_live canary.custom) do
      assert name in names, name
    end

    assert log =~ "[BilldogEng:analytics]"
    refute log =~ @canary
    requests = Collector.requests(collector)
    refute Enum.any?(requests, &(&1.body =~ @canary))
    refute Enum.any?(requests, &(inspect(&1.headers) =~ @canary))
    refute Enum.any?(requests, &(&1.body =~ "198.51.100.7"))
  end

  test "nor has the log where the app's own functions fail on them", %{steps: steps, collector: collector} do
    client(collector, :canary)

    raising = [
      distinct_id: fn _, metadata -> raise inspect(metadata, limit: :infinity) end,
      filter: fn measurements, metadata -> Map.fetch!(measurements, metadata) end,
      properties: fn _, metadata -> exit(metadata) end,
      groups: fn _, metadata -> throw(metadata) end
    ]

    for {option, function} <- raising do
      opts =
        if option == :distinct_id,
          do: [distinct_id: function],
          else: [{:distinct_id, "u1"}, {option, function}]

      ids = attach(:canary, opts)
      log = capture_log(fn -> everything(steps) end)
      assert [_, _, _, _] = Regex.scan(~r/the handler .* (raised|ended by) /, log)
      refute log =~ @canary

      assert for(
               %{id: id, captured: 0, failed: failed} <- Telemetry.handlers(),
               id in ids,
               failed > 0,
               do: id
             ) != []

      Enum.each(ids, &Telemetry.detach/1)
    end
  end

  test "nor where there is nobody to capture them for", %{steps: steps, collector: collector} do
    client(collector, :canary)
    attach(:canary, distinct_id: "")
    log = capture_log(fn -> everything(steps) end)
    nothing = Regex.scan(~r/the handler (.*) captured nothing/, log, capture: :all_but_first)
    assert [_, _, _, _] = Enum.uniq(nothing)
    refute log =~ @canary
  end
end
