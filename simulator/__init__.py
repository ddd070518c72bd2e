"""A stand-in for Meta on loopback: a generated world, the Graph API over it, and a sender of its webhooks.

    world = World(seed=1, pages=5, conversations_per_page=40, messages_per_conversation=30, now=real_now)
    world.pages                          -> [Page]: id, name, access_token; kill_token(), renew_token()
    world.person_sends(page_id, psid=None, text=..., attachments=..., reply_to=..., quick_reply=...)  -> [Item]
    world.page_sends(page_id, psid=None, text=..., app="inbox")       -> [Item]    an echo
    world.postback(page_id, psid=None), edit(mid), unsend(mid), react(mid, "love"), unreact(mid),
    world.read(page_id, psid), delivery(page_id, psid), hand_over(page_id, psid), take_over(page_id, psid),
    world.take_back(page_id, psid), refer(page_id, psid)
    world.event(page_id, "optin")        what leaves no trace in Graph: see events.KINDS
                                         -> [Item]    each changes the world and returns the webhook items it causes
    world.truth(page_id)                 -> Truth(conversations, messages): what rows must exist (see truth.py);
    world.true_messages(page_id)         -> the same one by one, for worlds that are large
    Life(world, seed=1).happen()         -> [Item]    something happens, in the real mixture

    graph = Graph(world, app_secret=..., behaviour=Behaviour(...), faults=Faults(["http_500:0.05"]), limits=Limits())
    graph.app                            the ASGI app; graph.calls, graph.calls_of(page_id) are what was called
    async with serving(graph.app) as url:    on a loopback port (it sends the Date of the world's clock)
    telling.graph_and_truth(graph)           the same app, which also tells the truth over HTTP

    sender = Sender(http, url, app_secret, world=world, withhold=0.1, repeat=0.05, reorder=0.05, batch=1)
    await sender.send(items); await sender.flush(); await sender.retry_due(); await sender.handshake(verify_token)
    sender.counts, sender.withheld_items, sender.alerts

It keeps to what Meta documents. Where nobody could confirm what Meta does there is a switch in `Behaviour`; docstrings
say what is assumed without one. The simulator imports nothing of the service.
"""

from simulator.attachments import Attachment
from simulator.behaviour import Behaviour, BehaviourError, parse_behaviour
from simulator.clock import TurnedClock, real_now
from simulator.faults import Fault, FaultError, Faults, parse_fault
from simulator.graph import Graph
from simulator.items import Item
from simulator.life import Life
from simulator.page import Page
from simulator.places import WorldError
from simulator.sender import Sender, SenderError
from simulator.serving import serving
from simulator.truth import AttachmentTruth, ConversationTruth, MessageTruth, ReactionTruth, Truth
from simulator.usage import Limits
from simulator.world import World

__all__ = [
    "Attachment",
    "AttachmentTruth",
    "Behaviour",
    "BehaviourError",
    "ConversationTruth",
    "Fault",
    "FaultError",
    "Faults",
    "Graph",
    "Item",
    "Life",
    "Limits",
    "MessageTruth",
    "Page",
    "ReactionTruth",
    "Sender",
    "SenderError",
    "Truth",
    "TurnedClock",
    "World",
    "WorldError",
    "parse_behaviour",
    "parse_fault",
    "real_now",
    "serving",
]
