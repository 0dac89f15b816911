# bin/demo: eight tasks capture for 20 s, and the ingest is down for four of them.
#
#     tasks ──capture/4──► client ──HTTP──► collector ──► the summary's own count
Code.require_file("demo_summary.exs", __DIR__)

defmodule Demo do
  alias BilldogEng.{Analytics, Collector}
  alias Demo.Summary

  @seconds 20
  @down_at 7
  @up_at 11
  @tasks 8

  def run do
    demo = Summary.start()
    IO.puts("ingest on #{Collector.url(demo.collector)}")

    times =
      Summary.step("#{@tasks} tasks for #{@seconds} s, the ingest down for #{@up_at - @down_at} s", fn ->
        tasks = for user <- 1..@tasks, do: Task.async(fn -> browse(demo.client, "user-#{user}", 1, []) end)
        for second <- 1..@seconds, do: second(second, demo)
        if System.get_env("DEMO_TERMINAL"), do: IO.puts("")
        for task <- tasks, do: send(task.pid, :stop)
        tasks |> Task.await_many() |> Enum.concat() |> Enum.sort() |> List.to_tuple()
      end)

    rows =
      for {name, share} <- [{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}] do
        ns = elem(times, trunc(tuple_size(times) * share))
        {"a capture, #{name}", "#{Float.round(ns / 1000, 1)} µs"}
      end

    Summary.finish(demo, tuple_size(times), rows)
  end

  # Captures until it gets `:stop`, and returns how long each capture took, in ns.
  defp browse(client, user, page, times) do
    properties = %{path: "/product/#{rem(page, 7)}", price: rem(page, 80) + 0.5, currency: "EUR", plan: :pro}
    from = System.monotonic_time()
    Analytics.capture(client, user, "product_viewed", properties)
    took = System.convert_time_unit(System.monotonic_time() - from, :native, :nanosecond)

    receive do
      :stop -> [took | times]
    after
      if(rem(page, 5) == 0, do: 5, else: 0) -> browse(client, user, page + 1, [took | times])
    end
  end

  defp second(second, demo) do
    case second do
      @down_at -> Collector.respond(demo.collector, :refuse)
      @up_at -> Collector.respond(demo.collector, :ok)
      _ -> :ok
    end

    # Ends the backoff after the failed flushes.
    if second == @up_at, do: Task.start_link(fn -> Analytics.flush(demo.client, timeout: 60_000) end)
    Process.sleep(1_000)
    stats = Analytics.stats(demo.client)
    ingest = if second in @down_at..(@up_at - 1), do: "DOWN", else: "up"

    Summary.progress(
      "#{second} s  captured #{stats.captured}  delivered #{stats.delivered}  queued #{stats.queued}  ingest #{ingest}"
    )
  end
end

System.halt(Demo.run())
