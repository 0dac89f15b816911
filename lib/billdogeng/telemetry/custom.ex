defmodule BilldogEng.Telemetry.Custom do
  @moduledoc false
  # Reads any `:telemetry` event, under the name that the app chooses.

  alias BilldogEng.Telemetry.Handler

  def events([name | _] = event) when is_atom(name), do: [event]
  def events([_ | _] = events), do: events
  def events(other), do: [other]

  # Returns the handler's options from the value of `:event`.
  def options(name) do
    valid = is_binary(name) or is_atom(name) or is_function(name, 2) or is_function(name, 3)
    Handler.check!(:event, valid, "an event's name, or a function that returns it")
    %{name: name}
  end

  def read(event, measurements, metadata, %{name: name}) do
    case name do
      nil -> {Enum.join(event, "."), %{}}
      function when is_function(function) -> named(Handler.call(function, event, measurements, metadata))
      name -> {name, %{}}
    end
  end

  defp named(name) when name in [nil, ""], do: nil
  defp named(name), do: {name, %{}}
end
