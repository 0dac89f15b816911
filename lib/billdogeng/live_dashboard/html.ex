defmodule BilldogEng.LiveDashboard.HTML do
  @moduledoc false
  # Writes the dashboard's page as iodata, in the classes of LiveDashboard: pure functions. All text is escaped.

  alias BilldogEng.Client.Stats
  alias BilldogEng.LiveDashboard.{Chart, Drops, Sentence}

  # The charts show this many samples, one a second.
  @samples 300

  @alerts %{good: "success", warning: "warning", bad: "danger"}

  @doc false
  # `view` is that of `Source.read/2`, or `:error`; `sent` is the result of the last test event, or nil.
  def page(:error, client, node, _sent),
    do: alert("warning", ["No client ", escape(inspect(client)), " is running on ", escape("#{node}"), "."])

  def page({:ok, view}, _client, _node, sent) do
    {level, sentence, remedy} = Sentence.of(view)

    [
      alert(@alerts[level], [
        "<strong>",
        escape(sentence),
        "</strong>",
        if(remedy, do: ["<br>", code(remedy)], else: [])
      ]),
      row([charts(view.history), facts(view)]),
      row([
        counters("Events", view.stats, view.debug),
        updates(view.stats.person_updates),
        spool(view.debug.spool)
      ]),
      test_event(sent),
      drops(view.stats.dropped)
    ]
  end

  defp charts(history) do
    card("Last five minutes", [
      chart("captured", Chart.rates(history, :captured), "/s"),
      chart("delivered", Chart.rates(history, :delivered), "/s"),
      chart("queued", Chart.values(history, :queued), " events")
    ])
  end

  defp chart(name, points, unit) do
    known = Enum.reject(points, &is_nil/1)
    now = known |> List.last(0) |> Sentence.count()
    most = known |> Enum.max(fn -> 0 end) |> Sentence.count()
    text = "#{name}: #{now}#{unit} now, #{most}#{unit} at most"

    [
      ~s(<p class="mb-1">),
      escape(text),
      "</p>",
      ~s(<div class="mb-3">),
      Chart.svg(points, @samples, escape(text)),
      "</div>"
    ]
  end

  defp facts(%{stats: stats, debug: debug} = view) do
    card(
      "Client",
      table([
        {"Host", debug.host},
        {"Mode", stats.mode},
        {"Last error", Stats.last_error(stats.last_error)},
        {"Last success", if(stats.last_success, do: time(stats.last_success), else: "none yet")},
        {"Calls that wait", callers(debug.callers)},
        {"Library", "billdogeng #{view.version}"},
        {"Time on the node", time(view.now)}
      ])
    )
  end

  defp callers([]), do: "none"

  defp callers(callers) do
    Enum.map_join(
      Enum.take(callers, 5),
      ", ",
      &"#{&1.call} by #{inspect(&1.pid)} for #{Sentence.count(&1.events)} events"
    ) <>
      if(length(callers) > 5, do: ", and #{length(callers) - 5} more", else: "")
  end

  defp counters(title, stats, debug) do
    card(
      title,
      table([
        {"Captured", Sentence.count(stats.captured)},
        {"Delivered", Sentence.count(stats.delivered)},
        {"Dropped", stats.dropped |> Map.values() |> Enum.sum() |> Sentence.count()},
        {"Queued", Sentence.count(stats.queued) <> Sentence.most(debug)},
        {"In memory", Sentence.bytes(stats.queued_bytes)},
        {"In flight", Sentence.count(stats.in_flight)},
        {"Retries", Sentence.count(stats.retries)},
        {"Values replaced", Sentence.count(stats.replaced)}
      ])
    )
  end

  defp updates(stats), do: counters("Person updates", stats, %{})

  defp spool(nil),
    do:
      card("Spool", [
        ~s(<p class="text-muted">),
        code("None: `:spool_dir` is not set, or not usable."),
        "</p>"
      ])

  defp spool(spool) do
    card(
      "Spool",
      table([
        {"Events", Sentence.count(spool.events)},
        {"Files", Sentence.bytes(spool.bytes)},
        {"Oldest file", if(spool.age, do: Sentence.duration(spool.age), else: "none")}
      ])
    )
  end

  defp drops(dropped) when dropped == %{}, do: card("Dropped events", "<p>None.</p>")

  defp drops(dropped) do
    rows =
      for {reason, count} <- Enum.sort_by(dropped, fn {_, count} -> -count end) do
        {meaning, remedy} = Drops.explain(reason)

        cells = [
          escape("#{reason}"),
          Sentence.count(count),
          code(Sentence.capitalised(meaning <> ".")),
          code(remedy)
        ]

        ["<tr>", for(cell <- cells, do: ["<td>", cell, "</td>"]), "</tr>"]
      end

    card("Dropped events", [
      ~s(<div class="table-responsive"><table class="table"><thead><tr><th>Reason</th><th>Count</th>),
      "<th>Meaning</th><th>What to do</th></tr></thead><tbody>",
      rows,
      "</tbody></table></div>"
    ])
  end

  defp test_event(sent) do
    result =
      case sent do
        nil -> []
        {:ok, text} -> alert("success", escape(text))
        {:error, text} -> alert("danger", code(text))
      end

    card("Test event", [
      "<p>Captures an event by this client, and flushes the queue.</p>",
      result,
      ~s(<button type="button" class="btn btn-primary btn-sm" phx-click="billdogeng_test_event">Send a test event</button>)
    ])
  end

  defp row(columns),
    do: [
      ~s(<div class="row">),
      for(column <- columns, do: [~s(<div class="col-md">), column, "</div>"]),
      "</div>"
    ]

  defp card(title, content) do
    [
      ~s(<div class="card mb-4"><div class="card-body"><h2 class="card-title h5">),
      escape(title),
      "</h2>",
      content,
      "</div></div>"
    ]
  end

  defp table(facts) do
    rows =
      for {name, value} <- facts,
          do: [
            ~s(<tr><th scope="row">),
            escape(name),
            "</th><td>",
            escape("#{value}"),
            "</td></tr>"
          ]

    [~s(<table class="table table-sm mb-0"><tbody>), rows, "</tbody></table>"]
  end

  defp alert(kind, content), do: [~s(<div class="alert alert-#{kind}" role="status">), content, "</div>"]

  defp time(time), do: time |> DateTime.truncate(:second) |> DateTime.to_iso8601()

  # `name` as code.
  defp code(text), do: Regex.replace(~r/`([^`]+)`/, escape(text), "<code>\\1</code>")

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
    |> String.replace("'", "&#39;")
  end
end
