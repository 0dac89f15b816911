defmodule BilldogEng.Collector.Problems do
  @moduledoc false
  # Finds in accepted events what a real ingest takes without a word and what later spoils reports: pure functions.
  #
  #     facts(event, slice, now) ──► own problems, and what to compare ──► compare(known, facts) ──► problems with others
  #
  # `facts/3` looks at one event and runs in the process of the request. `compare/2` needs the events before it.

  alias BilldogEng.Collector.Feed.Text

  @year_ms 366 * 86_400_000
  # A clock may run ahead by this much.
  @ahead_ms 5 * 60_000
  @large 64 * 1024
  # Of event names and of properties, so that hostile input takes a bounded memory.
  @most_known 5_000
  @most_properties 200

  # {code, title, remedy}, in the order in which the page shows them.
  @kinds [
    {:refused_event, "The real ingest refuses this event",
     "Correct what the reason names. The collector accepts the event so that you see it."},
    {:no_name, "An event without a name", "Pass the event's name as a string that is not empty."},
    {:no_user, "A distinct ID that identifies nobody",
     "Capture with the user's ID. For visitors without an account use a generated ID, as BilldogEng.Visitor does."},
    {:email, "A distinct ID that is an e-mail address",
     "Use the ID of the database: an address changes, and is personal data in every event."},
    {:type_change, "A property whose type changes",
     "Send the property with one type, or under two names. Reports treat the minority as missing."},
    {:similar_name, "Names that differ only by case or separator",
     "Choose one spelling. Each spelling is an event of its own in reports."},
    {:future, "A timestamp in the future",
     "Check the clock of the sender and the unit of :timestamp: integers are milliseconds."},
    {:old, "A timestamp over a year old",
     "Check the unit of :timestamp: integers are milliseconds. For imports of history this is intended."},
    {:large, "An event over 64 KB",
     "Send an ID or a count in place of the value. Large events slow the queue and can be refused."}
  ]

  @type code :: atom
  @type problem :: {code, String.t()}
  @type facts :: %{name: term, types: [{String.t(), String.t()}]}
  @type known :: %{types: %{String.t() => String.t()}, names: %{String.t() => String.t()}}

  @doc "Returns `{code, title, remedy}` of each kind of problem."
  @spec kinds() :: [{code, String.t(), String.t()}]
  def kinds, do: @kinds

  @doc "Returns the problems of one event alone, and the facts for `compare/2`. `now` is the system time in ms."
  @spec facts(term, non_neg_integer, integer) :: {[problem], facts}
  def facts(event, size, now) when is_map(event) do
    %{"event_name" => name, "user_id" => user, "properties" => properties, "event_timestamp" => at} =
      Map.merge(
        %{"event_name" => nil, "user_id" => nil, "properties" => %{}, "event_timestamp" => nil},
        event
      )

    problems = name(name) ++ user(user) ++ properties(properties) ++ time(at, now) ++ size(size)
    {problems, %{name: name, types: types(properties)}}
  end

  def facts(_event, size, _now), do: {size(size), %{name: nil, types: []}}

  defp name(name) when is_binary(name) and name != "", do: []
  defp name(""), do: [{:no_name, "event_name is empty"}]
  defp name(nil), do: [{:no_name, "event_name is nil"}]
  defp name(name), do: [{:no_name, "event_name is not a string: #{Text.short(name)}"}]

  defp user(nil), do: [{:no_user, "user_id is nil"}]
  defp user(id) when is_number(id), do: []
  defp user(id) when not is_binary(id), do: [{:refused_event, "user_id is neither a string nor a number"}]

  defp user(id) do
    cond do
      byte_size(id) > 320 ->
        []

      String.trim(id) == "" ->
        [{:no_user, "user_id is empty"}]

      String.downcase(id) in ~w(undefined null nil none nan [object\sobject] anonymous guest) ->
        [{:no_user, "user_id is the text #{inspect(id)}"}]

      id =~ ~r/^[^\s@]+@[^\s@]+\.[^\s@]+$/ ->
        [{:email, "user_id is an e-mail address"}]

      true ->
        []
    end
  end

  defp properties(map) when is_map(map), do: []
  defp properties(_), do: [{:refused_event, "properties is not a map"}]

  defp time(at, now) when is_integer(at) and at > now + @ahead_ms,
    do: [{:future, "event_timestamp is #{span(at - now)} ahead"}]

  defp time(at, now) when is_integer(at) and at < now - @year_ms,
    do: [{:old, "event_timestamp is #{span(now - at)} old"}]

  defp time(_at, _now), do: []

  # In the largest unit that fits.
  defp span(ms) when ms < 2 * 3_600_000, do: "#{div(ms, 60_000)} minutes"
  defp span(ms) when ms < 2 * 86_400_000, do: "#{div(ms, 3_600_000)} hours"
  defp span(ms) when ms < 2 * @year_ms, do: "#{div(ms, 86_400_000)} days"
  defp span(ms) when ms < 1_000_000 * @year_ms, do: "#{div(ms, @year_ms)} years"
  defp span(_ms), do: "over a million years"

  defp size(size) when size > @large, do: [{:large, "the event has #{div(size, 1024)} KB"}]
  defp size(_size), do: []

  # Properties that begin with `$` belong to the library, which keeps their types.
  defp types(properties) when is_map(properties) do
    for {key, value} <- Enum.take(properties, @most_properties),
        byte_size(key) <= 200 and not String.starts_with?(key, "$"),
        type = type(value),
        do: {key, type}
  end

  defp types(_), do: []

  defp type(nil), do: nil
  defp type(value) when is_boolean(value), do: "boolean"
  defp type(value) when is_number(value), do: "number"
  defp type(value) when is_binary(value), do: "string"
  defp type(value) when is_list(value), do: "list"
  defp type(value) when is_map(value), do: "object"

  @doc "Returns what `compare/2` knows before the first event."
  @spec new() :: known
  def new, do: %{types: %{}, names: %{}}

  @doc "Returns the problems of an event beside the events before it, and what is known with it."
  @spec compare(known, facts) :: {[problem], known}
  def compare(known, %{name: name, types: types}) do
    {problems, known_types} = Enum.reduce(types, {[], known.types}, &compare_type/2)
    {similar, names} = compare_name(name, known.names)
    {similar ++ Enum.reverse(problems), %{known | types: known_types, names: names}}
  end

  defp compare_type({key, type}, {problems, types}) do
    case types do
      %{^key => ^type} -> {problems, types}
      %{^key => first} -> {[{:type_change, "#{key} is a #{type}, and was a #{first}"} | problems], types}
      _ when map_size(types) >= @most_known -> {problems, types}
      _ -> {problems, Map.put(types, key, type)}
    end
  end

  defp compare_name(name, names) when is_binary(name) and name != "" and byte_size(name) <= 200 do
    spelling = spelling(name)

    case names do
      %{^spelling => ^name} -> {[], names}
      %{^spelling => first} -> {[{:similar_name, "#{name} differs from #{first} only in spelling"}], names}
      _ when map_size(names) >= @most_known -> {[], names}
      _ -> {[], Map.put(names, spelling, name)}
    end
  end

  defp compare_name(_name, names), do: {[], names}

  # `orderCompleted`, `order_completed` and `Order Completed` have the same one.
  defp spelling(name), do: name |> String.downcase() |> String.replace(["_", "-", ".", " ", ":", "/"], "")
end
