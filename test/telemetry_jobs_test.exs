defmodule BilldogEng.TelemetryJobsTest do
  @moduledoc """
  Ecto's queries and Oban's jobs, by metadata of the shape that ecto_sql 3.14 and oban 2.23 emit.
  """

  # Alone: events of Ecto and Oban reach every handler.
  use BilldogEng.ClientCase

  alias BilldogEng.{Context, Telemetry}

  defmodule Repo do
    def config, do: [otp_app: :shop, password: "s3cret", telemetry_prefix: [:shop, :main_repo]]
  end

  setup do
    collector = start_collector()
    %{collector: collector, client: start_client(collector)}
  end

  defp captured(%{client: client, collector: collector}) do
    assert Analytics.flush(client) == :ok
    for event <- Collector.events(collector), do: {event["event_name"], event["user_id"], event["properties"]}
  end

  defp native(ms), do: System.convert_time_unit(ms, :millisecond, :native)

  describe "attach_ecto" do
    defp attach_ecto(client, repo, opts) do
      assert Telemetry.attach_ecto(client, repo, Keyword.put_new(opts, :distinct_id, "u1")) == :ok
      on_exit(fn -> Telemetry.detach({Telemetry, client, {:ecto, repo}}) end)
    end

    defp query(ms, more \\ %{}, event \\ [:shop, :main_repo, :query]) do
      times = %{
        queue_time: native(1),
        query_time: native(ms - 1),
        total_time: native(ms),
        idle_time: native(9)
      }

      about = %{
        type: :ecto_sql_query,
        repo: Repo,
        result: {:ok, %{rows: [["s3cret-row"]], num_rows: 1}},
        params: ["s3cret-param"],
        cast_params: ["s3cret-param"],
        query: ~s(SELECT u0."id" FROM "users" AS u0 WHERE u0."name" = 's3cret-literal'),
        source: "users",
        stacktrace: nil,
        options: []
      }

      :telemetry.execute(event, times, Map.merge(about, more))
    end

    test "captures the queries that are slower, without statement and parameters", context do
      attach_ecto(context.client, Repo, slower_than: 100)
      query(100)
      query(101)
      query(250, %{query: "insert into users values ('s3cret')", result: {:error, %{message: "s3cret"}}})
      query(250, %{query: "s3cret"})

      assert [{"slow_query", "u1", first}, {_, _, second}, {_, _, third}] = captured(context)

      assert first == %{
               "source" => "users",
               "command" => "SELECT",
               "repo" => inspect(Repo),
               "result" => "ok",
               "duration_ms" => 101.0,
               "queue_ms" => 1.0,
               "query_ms" => 100.0
             }

      assert %{"command" => "INSERT", "result" => "error"} = second
      assert %{"command" => "other"} = third
    end

    test "leaves out what has no source, migrations, and Oban's tables", context do
      attach_ecto(context.client, Repo, slower_than: 0)
      query(9, %{source: nil})
      query(9, %{source: "schema_migrations"})
      query(9, %{source: "versions", options: [schema_migration: true]})
      query(9, %{source: "oban_jobs"})
      query(9, %{source: "jobs", options: [oban_conf: %{name: Oban}]})
      query(9, %{source: "orders"})
      assert [{"slow_query", "u1", %{"source" => "orders"}}] = captured(context)
    end

    test "finds the repo's prefix, by its name where it has no configuration", context do
      attach_ecto(context.client, MyApp.HTTPRepo, slower_than: 0.5, event: "slow")
      query(1, %{}, [:my_app, :http_repo, :query])
      query(1, %{}, [:my_app, :repo, :query])
      assert [{"slow", "u1", _}] = captured(context)
    end

    test "takes the distinct ID from the process", context do
      attach_ecto(context.client, Repo, slower_than: 1, distinct_id: nil)
      Context.put(distinct_id: "u2")
      Task.await(Task.async(fn -> query(2) end))
      assert [{"slow_query", "u2", _}] = captured(context)
    end

    test "asks for a bound", %{client: client} do
      for opts <- [[], [slower_than: "1"], [slower_than: -1], [slower_than: 1, event: 1]] do
        assert_raise ArgumentError, ~r/:slower_than|:event/, fn ->
          Telemetry.attach_ecto(client, Repo, opts)
        end
      end
    end
  end

  describe "attach_oban" do
    defp attach_oban(client, opts \\ []) do
      assert Telemetry.attach_oban(client, opts) == :ok
      on_exit(fn -> Telemetry.detach({Telemetry, client, :oban}) end)
    end

    defp job(event, more, meta \\ %{"distinct_id" => "u1", "token" => "s3cret-meta"}) do
      job = %{
        id: 7,
        args: %{"card" => "s3cret-arg"},
        attempt: 2,
        errors: [%{"error" => "s3cret-error"}],
        max_attempts: 20,
        meta: meta,
        queue: "mail",
        tags: ["s3cret-tag"],
        worker: "Shop.Mailer"
      }

      times = %{duration: native(12), memory: 1, queue_time: native(3), reductions: 1}
      about = Map.merge(Map.take(job, [:id, :args, :queue, :worker, :attempt, :tags]), %{conf: %{}, job: job})
      :telemetry.execute([:oban, :job, event], times, Map.merge(about, more))
    end

    @failure %{kind: :error, result: nil, state: :failure, stacktrace: []}

    test "captures jobs that have succeeded, and none of those that stopped otherwise", context do
      attach_oban(context.client)

      for state <- [:cancelled, :discard, :snoozed, :success],
          do: job(:stop, %{state: state, result: {:ok, "s3cret"}})

      assert captured(context) == [
               {"job_completed", "u1",
                %{
                  "worker" => "Shop.Mailer",
                  "queue" => "mail",
                  "attempt" => 2,
                  "max_attempts" => 20,
                  "duration_ms" => 12.0,
                  "queue_ms" => 3.0
                }}
             ]
    end

    test "captures each attempt that has failed, by the exception's module", context do
      attach_oban(context.client)
      job(:exception, Map.put(@failure, :reason, %RuntimeError{message: "s3cret"}))
      job(:exception, Map.merge(@failure, %{kind: :exit, state: :discard, reason: "s3cret"}))

      assert [{"job_failed", "u1", first}, {"job_failed", "u1", last}] = captured(context)
      assert %{"state" => "failure", "error" => "RuntimeError", "attempt" => 2} = first
      assert %{"state" => "discard", "error" => "exit"} = last
    end

    test "takes the distinct ID from the job's meta, else from the process, as for a job that runs inline",
         context do
      attach_oban(context.client)
      Context.put(distinct_id: "caller")

      for meta <- [%{}, %{"distinct_id" => nil}, nil, %{"distinct_id" => 5}],
          do: job(:stop, %{state: :success}, meta)

      assert for({_, id, _} <- captured(context), do: id) == ["caller", "caller", "caller", 5]
    end

    test "has other names, and only what is wanted", context do
      attach_oban(context.client, events: [job_completed: false, job_failed: "failed"], distinct_id: "all")
      job(:stop, %{state: :success})
      job(:exception, Map.put(@failure, :reason, %RuntimeError{}))
      assert [{"failed", "all", _}] = captured(context)
    end
  end
end
