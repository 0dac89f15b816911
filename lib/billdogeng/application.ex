defmodule BilldogEng.Application do
  @moduledoc false
  # Starts before the apps that use the library, and stops after them: by then their clients are on their
  # own, and `BilldogEng.Reporter` waits for them.

  use Application

  alias BilldogEng.PidTable

  @impl true
  def start(_type, _args) do
    tables = [BilldogEng.Context.Table, {PidTable, BilldogEng.Hooks}]

    children =
      tables ++
        [BilldogEng.Hooks.Shared, BilldogEng.Missing, BilldogEng.Telemetry.Emitter, BilldogEng.Reporter]

    Supervisor.start_link(children, strategy: :one_for_one, name: BilldogEng.Supervisor)
  end
end
