defmodule BilldogEng.EncoderPropertyTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.{Model, Terms}

  @events 6_000
  @chunk 500

  # Four terms an event, read back by a decoder that knows nothing of ours.
  @tag timeout: 300_000
  test "any term is encoded as by the model" do
    seed =
      System.get_env("SEED", "#{System.unique_integer([:positive, :monotonic]) + System.os_time()}")
      |> String.to_integer()

    :rand.seed(:exsss, seed)
    collector = start_collector()
    client = start_client(collector)

    for _ <- 1..div(@events, @chunk) do
      events = for _ <- 1..@chunk, do: {Terms.term(3), Terms.term(3), Terms.term(40), pick_groups()}

      for {event, got} <- Enum.zip(events, sent(client, collector, events)), got != expected(event) do
        event = shrink(event, client, collector)
        [got] = sent(client, collector, [event])

        flunk("""
        SEED=#{seed}
        event:    #{inspect(event, limit: :infinity)}
        got:      #{inspect(got, limit: :infinity)}
        expected: #{inspect(expected(event), limit: :infinity)}
        """)
      end
    end

    assert %{captured: captured, delivered: captured, dropped: dropped} = Analytics.stats(client)
    assert dropped == %{}
  end

  defp pick_groups, do: if(:rand.uniform(2) == 1, do: %{}, else: Terms.term(4))

  defp expected({id, name, properties, groups}) do
    %{
      "user_id" => Model.value(id),
      "event_name" => Model.value(name),
      "properties" => Model.properties(properties, groups)
    }
  end

  defp sent(client, collector, events) do
    Collector.reset(collector)

    for {id, name, properties, groups} <- events,
        do: :ok = Analytics.capture(client, id, name, properties, groups)

    :ok = Analytics.flush(client)
    bodies = for request <- Collector.requests(collector), do: request.body |> decode() |> plain()
    for body <- bodies, event <- body["events"], do: Map.delete(event, "event_timestamp")
  end

  # OTP's own decoder since OTP 27, else Debian's erlang-jiffy, else the native library's.
  defp decode(body) do
    cond do
      Code.ensure_loaded?(:json) ->
        pairs = %{
          object_start: fn _ -> [] end,
          object_push: fn key, value, pairs -> [{key, value} | pairs] end,
          object_finish: fn pairs, outer -> {{pairs}, outer} end
        }

        {value, _, ""} = apply(:json, :decode, [body, nil, pairs])
        value

      Code.ensure_loaded?(:jiffy) ->
        apply(:jiffy, :decode, [body])

      true ->
        {:ok, value} = BilldogEng.Client.Native.json_decode(body)
        value
    end
  end

  # Objects come as pairs, so that a key that is there twice is seen.
  defp plain({pairs}) do
    object = Map.new(pairs, fn {key, value} -> {key, plain(value)} end)
    if map_size(object) == length(pairs), do: object, else: {:repeated_key, pairs}
  end

  defp plain(object) when is_map(object), do: object
  defp plain(list) when is_list(list), do: Enum.map(list, &plain/1)
  defp plain(:null), do: nil
  defp plain(value), do: value

  defp shrink(event, client, collector) do
    smaller = for at <- 0..3, part <- Terms.smaller(elem(event, at)), do: put_elem(event, at, part)

    case Enum.find(smaller, fn event -> sent(client, collector, [event]) != [expected(event)] end) do
      nil -> event
      event -> shrink(event, client, collector)
    end
  end
end
