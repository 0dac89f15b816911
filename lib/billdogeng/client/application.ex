defmodule BilldogEng.Client.Application do
  @moduledoc false
  # Starts before the apps that use the library, and stops after them: by then their clients are on their
  # own, and `BilldogEng.Client.Reporter` waits for them.

  use Application

  alias BilldogEng.Client.PidTable

  @impl true
  def start(_type, _args) do
    tables = [BilldogEng.Context.Table, {PidTable, BilldogEng.Client.Hooks}]

    children =
      tables ++
        [
          BilldogEng.Client.Hooks.Shared,
          BilldogEng.Client.Missing,
          BilldogEng.Telemetry.Emitter,
          BilldogEng.LiveDashboard.History,
          BilldogEng.Client.Reporter
        ]

    Supervisor.start_link(children, strategy: :one_for_one, name: BilldogEng.Supervisor)
  end
end
