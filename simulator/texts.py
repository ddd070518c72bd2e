# ruff: noqa: RUF001 - letters of other scripts that look like Latin ones are what this file is for
"""What people say and what they are called, in many scripts, with emoji of every width."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.dice import Dice

PHRASES = (
    "Hello, is number {} still available?",
    "My order {} has not arrived yet",
    "Thanks! See you at {} o'clock 👍",
    "Grüße aus Köln, Zimmer {} bitte, mit Frühstück für zwei",
    "Où est ma commande n° {} ? Je l'attends déjà depuis une semaine…",
    "¿Cuánto cuesta el envío número {}? ¡Gracias!",
    "Dzień dobry, żółta koszulka nr {} w rozmiarze L?",
    "Czy są miejsca na {} września? Łódź, ul. Źródlana",
    "Привет, заказ {} ещё не пришёл 😕",
    "Добрий день, чи є в наявності № {}?",
    "Γεια σας, η παραγγελία {} πότε έρχεται;",
    "مرحبا، أين طلبي رقم {}؟",
    "שלום, מתי תגיע הזמנה מספר {}?",
    "नमस्ते, मेरा ऑर्डर {} कब आएगा? 🙏🏽",
    "আমার অর্ডার {} কোথায়?",
    "สวัสดีค่ะ สินค้าหมายเลข {} ยังมีไหมคะ",
    "Đơn hàng {} của tôi đâu rồi ạ?",
    "你好，订单{}什么时候发货？",
    "注文番号{}の件でお問い合わせします。",
    "안녕하세요, 주문 {}번 배송 문의드려요",
    "გამარჯობა, შეკვეთა {} სად არის?",
    "Բարեւ, պատվերը {} ե՞րբ կգա",
    "Sipariş {} ne zaman gelir? Teşekkürler ☕",
    "Hæ, er pöntun {} tilbúin? Þakka þér!",
    "👨‍👩‍👧‍👦 table for {} please 🍝🍷",
    "🏳️‍🌈🏴‍☠️ {} 🇪🇺🇯🇵",
    "😀😁😂 {} 🤣😃😄",
    'He said: "{}" \\ and then <left> & never came back',
    "Line one {}\nline two\n\n\ttabbed",
    "e\u0301 and é are two spellings, {} Z\u0351\u036b\u0343\u036aa\u0302\u0300l\u0306\u0366g\u0352o\u0303",
    "zero\u200bwidth and no\u00a0break {} \u202eright to left\u202c",
    "see https://example.org/order/{}?a=1&b=2#top",
    "ok {}",
    "{}",
)
GIVEN = (
    "Anna", "Jürgen", "Zoë", "François", "Łukasz", "Ñusta", "Дмитро", "Ольга", "Ελένη", "محمد", "דנה", "आरव", "ফারিহা",
    "สมชาย", "Nguyễn", "伟", "さくら", "민준", "ნინო", "Արամ", "İpek", "Þóra", "Siobhán", "O'Neil", "🌸 Mei",
)  # fmt: skip
FAMILY = (
    "Smith", "Müller", "Lefèvre", "Kowalska", "García", "Шевченко", "Иванова", "Παπαδόπουλος", "الخطيب", "כהן", "शर्मा",
    "রহমান", "ใจดี", "Trần", "王", "佐藤", "김", "ბერიძე", "Պետրոսյան", "Yılmaz", "Jónsdóttir", "de la Cruz", "-",
)  # fmt: skip
SHOPS = (
    "Corner Bakery", "Bücher & Mehr", "Café Ærø", "Kwiaciarnia Żonkil", "Зоря", "Το Σπίτι", "متجر النور", "Blue Tram",
    "花の店", "서울식당", "Taquería Sol", "Fjord Outdoor",
)  # fmt: skip
BUTTONS = ("Get started", "Jetzt starten", "Zobacz ofertę", "Voir le menu", "はじめる", "ابدأ", "Order status")
LINK_TITLES = (
    "Opening hours",
    "TAHITI – der schönste Strand",
    "Меню на сьогодні",
    "新商品のご案内",
    "Sale ends Sunday",
)


def text(dice: Dice) -> str:
    """Return something said."""
    phrase = dice.pick(PHRASES).format(dice.below(1_000_000))
    return f"{phrase} {dice.pick(PHRASES).format(dice.below(100))}" if dice.chance(0.2) else phrase


def person_name(dice: Dice) -> str:
    """Return a person's name."""
    return f"{dice.pick(GIVEN)} {dice.pick(FAMILY)}"


def page_name(dice: Dice, number: int) -> str:
    """Return a Page's name; the number keeps Pages apart."""
    return f"{dice.pick(SHOPS)} {number + 1}"
