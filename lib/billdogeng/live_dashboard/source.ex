defmodule BilldogEng.LiveDashboard.Source do
  @moduledoc false
  # Reads what the dashboard's page shows, on the node of the client.

  alias BilldogEng.Analytics
  alias BilldogEng.LiveDashboard.{History, Sentence}

  @doc false
  # Returns what is shown of a client on a node, or `:error` if there is no such client.
  def read(client, node) do
    {:ok, :erpc.call(node, __MODULE__, :read, [client], 5_000)}
  catch
    _, _ -> :error
  end

  @doc false
  def read(client) do
    %{
      stats: Analytics.stats(client),
      debug: Analytics.debug(client),
      history: History.of(client),
      version: :billdogeng |> Application.spec(:vsn) |> to_string(),
      now: DateTime.utc_now()
    }
  end

  @test_event "billdogeng_test_event"
  @test_user "billdogeng-test"
  # LiveDashboard's process waits for it.
  @patience 4_000

  @doc false
  # Captures an event by the client on a node, and flushes. Returns what became of it, in words.
  def send_test_event(client, node) do
    :erpc.call(node, __MODULE__, :send_test_event, [client], 2 * @patience)
  catch
    _, _ -> {:error, "No client #{inspect(client)} is running on #{node}."}
  end

  @doc false
  def send_test_event(client) do
    Analytics.capture(client, @test_user, @test_event, %{sent_by: "LiveDashboard"})

    case Analytics.flush(client, timeout: @patience) do
      :ok ->
        {:ok, "Delivered the event #{@test_event} of #{@test_user}, and all events captured before it."}

      {:error, %{code: "TIMEOUT"}} ->
        {:error,
         "Not delivered within #{div(@patience, 1_000)} s. It stays in the queue, and the flush continues."}

      {:error, error} ->
        {cause, remedy} = Sentence.diagnosis(error, Analytics.debug(client).host)
        {:error, "Not delivered, it stays in the queue: #{cause}. #{Sentence.capitalised(remedy)}."}
    end
  end
end
